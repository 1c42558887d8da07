"""The tasks on a Ray cluster of two nodes: what they leave is what one process leaves, though a node is killed.

Other disturbances: tests/slow/test_ray.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import NEEDED, Nodes, jobs_on, same_banks, two_nodes, wait
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


def test_a_session_whose_node_is_killed_in_the_pass_and_in_training_is_that_of_one_process(
    jobs: Jobs, nodes: Nodes
) -> None:
    plain = jobs.session("plain")
    assert len(jobs.epochs) == ALL
    for name in ("slow", "raises"):
        (jobs.path / name).touch()
    session = jobs.begin_session("there", "--kvbench-engine", "ray")
    for pattern, count in (("there/*/part-*", 2), ("there/trainings/*/*.json", 4)):
        wait(lambda: len(list(jobs.path.glob(pattern))) >= count, session)  # noqa: B023 (called at once)
        nodes.tell("kill")
        nodes.tell("add")
    (jobs.path / "slow").unlink()
    assert jobs.end_session("there", session) == plain
    assert jobs.tables("there") == jobs.tables("plain")
    assert not (jobs.path / "raises").exists()
    assert same_banks(jobs, "plain", "there"), "byte for byte"


def test_a_sweep_on_the_cluster_maps_what_one_process_does(jobs: Jobs) -> None:
    grid = ("--set", "lr=1e-3,3e-3", "--set", "epochs=1", "--finding", "gelu-beats-relu")
    plain = ends(jobs.kvbench("sweep", *grid, "--cache", "plain"))
    assert ends(jobs.kvbench("sweep", *grid, "--cache", "there", "--engine", "ray")) == plain
    names = [sorted(path.name for path in jobs.path.glob(f"{cache}/sweeps/*/*")) for cache in ("plain", "there")]
    assert names[0] == names[1] != []
    assert same_banks(jobs, "plain", "there")


def test_no_cluster_is_a_sentence(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    one = jobs.kvbench("extract", "--engine", "ray")
    _, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 2
    assert "Error: Ray cannot be reached: " in err
