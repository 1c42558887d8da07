"""Disturbances of tasks on a Ray cluster, one by one: a task that raises, one that hangs, a disk that is full.

Nodes that are killed: tests/integration/test_ray.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.performance.sharing import passes
from kvbench.harness.engine import LOCAL
from tests.support.banks import tmpfs
from tests.support.cluster import NEEDED, Nodes, jobs_on, same_banks, two_nodes
from tests.support.jobs import ALL, PATIENCE, Jobs, ends

pytestmark = NEEDED


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with two_nodes() as found:
        yield found


@pytest.fixture
def jobs(tmp_path: Path, nodes: Nodes) -> Iterator[Jobs]:
    with jobs_on(nodes, tmp_path) as made:
        yield made


def test_a_task_that_raises_and_one_that_hangs_change_nothing(jobs: Jobs) -> None:
    plain = jobs.session("plain")
    assert len(jobs.epochs) == ALL

    for name in ("hangs", "raises"):
        (jobs.path / name).touch()
    assert "train: 128 images" in ends(jobs.kvbench("extract", "--cache", "there", "--engine", "ray"))
    assert not (jobs.path / "hangs").exists()
    assert not (jobs.path / "raises").exists()
    assert same_banks(jobs, "plain", "there"), "byte for byte"

    (jobs.path / "raises").touch()
    told = ends(jobs.kvbench("train", "--cache", "there", "--engine", "ray"))
    assert "28 trainings of a seed: 0 trained, 28 found" in told
    assert not (jobs.path / "raises").exists()
    assert len({*jobs.epochs}) == ALL, "a task may be done a second time"
    assert jobs.session("there") == plain
    assert jobs.epochs == [], "a session trains nothing"
    assert jobs.tables("there") == jobs.tables("plain")


def test_a_disk_that_is_full_is_a_sentence_and_what_is_whole_stays(jobs: Jobs) -> None:
    with tmpfs(jobs.path / "full", "1m"):
        filler = jobs.path / "full" / "filler"
        filler.write_bytes(bytes(2**20 - 20_000))
        one = jobs.kvbench("extract", "--cache", "full", "--engine", "ray")
        _, err = one.communicate(timeout=PATIENCE)
        assert one.returncode == 2, err
        assert "Error: Cannot write " in err
        filler.unlink()
        ends(jobs.kvbench("extract", "--cache", "full"))
        ends(jobs.kvbench("extract", "--cache", "plain"))
        assert same_banks(jobs, "plain", "full")


def test_passes_on_a_cluster_of_this_machine_take_turns_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOCAL:
        monkeypatch.setenv(name, LOCAL[name])
    measured = passes(64, 4, 1)
    assert measured is not None
    assert {workers: [*each] for workers, each in measured["seconds"].items()} == {
        "1": ["ray", "alone"], "2": ["ray", "alone"],
    }  # fmt: skip
    assert all(seconds > 0 for each in measured["seconds"].values() for some in each.values() for seconds in some)
