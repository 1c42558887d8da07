"""The tasks on a Ray cluster of two nodes: what they leave is what one process leaves, whatever happens to a node."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO

import pytest

from kvbench.harness.engine import LOCAL
from tests.support import ROOT
from tests.support.banks import tmpfs
from tests.support.jobs import ALL, PATIENCE, Jobs, content_of, ends

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'kvbench[ray]'"),
    pytest.mark.timeout(1800),
]
# Disturbances, each once: they take away the file that asks for them. SLOW is for every task.
DISTURBED = """
import time

def asked(name):
    try:
        HERE.joinpath(name).unlink()
    except FileNotFoundError:
        return False
    return True

def disturbed(act):
    def disturbed(*arguments, **options):
        if asked("hangs"):
            time.sleep(3600)
        if asked("raises"):
            raise RuntimeError("of the test's")
        time.sleep(HERE.joinpath("slow").exists())
        return act(*arguments, **options)
    return disturbed

from kvbench.harness import tasks
store.Store.fill = disturbed(store.Store.fill)
tasks.train = disturbed(tasks.train)
"""


class Nodes:
    """A cluster in a process of its own."""

    def __init__(self) -> None:
        env = {**os.environ, **LOCAL, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.address = self._lines.get(timeout=PATIENCE)

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line.strip())

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self._lines.get(timeout=PATIENCE) == "done"

    def close(self) -> None:
        try:
            self.process.communicate("end\n", timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.close()


@pytest.fixture
def jobs(tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs(tmp_path)
    conftest = tmp_path / "conftest.py"
    conftest.write_text(conftest.read_text() + DISTURBED)
    for name, value in {**LOCAL, "RAY_ADDRESS": nodes.address}.items():
        monkeypatch.setenv(name, value)
    return made


def wait(until: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait while a process works until something is the case."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert process.poll() is None, process.communicate(timeout=60)
        assert time.monotonic() < end
        time.sleep(0.1)


def same_banks(jobs: Jobs, one: str, other: str) -> bool:
    banks = [
        [next((jobs.path / cache).glob(f"tiny-{split}-*")) for split in ("train", "val")] for cache in (one, other)
    ]
    return [content_of(bank) for bank in banks[0]] == [content_of(bank) for bank in banks[1]]


def test_a_node_that_is_killed_a_task_that_raises_and_one_that_hangs_change_nothing(jobs: Jobs, nodes: Nodes) -> None:
    plain = jobs.session("plain")
    assert len(jobs.epochs) == ALL

    for name in ("slow", "hangs", "raises"):
        (jobs.path / name).touch()
    extracting = jobs.kvbench("extract", "--cache", "there", "--engine", "ray")
    wait(lambda: len(list(jobs.path.glob("there/*/part-*"))) >= 2, extracting)
    nodes.tell("kill")
    nodes.tell("add")  # the other node's worker may be the one that hangs
    assert "train: 128 images" in ends(extracting)
    assert not (jobs.path / "hangs").exists()
    assert not (jobs.path / "raises").exists()
    assert same_banks(jobs, "plain", "there"), "byte for byte"

    (jobs.path / "raises").touch()
    training = jobs.kvbench("train", "--cache", "there", "--engine", "ray")
    wait(lambda: len(list(jobs.path.glob("there/trainings/*/*.json"))) >= 4, training)
    nodes.tell("kill")
    told = ends(training)
    nodes.tell("add")
    assert "28 trainings of a seed: 0 trained, 28 found" in told
    assert not (jobs.path / "raises").exists()
    _ = jobs.epochs
    assert jobs.session("there") == plain
    assert jobs.epochs == [], "a session trains nothing"


def test_a_disk_that_is_full_is_a_sentence_and_what_is_whole_stays(jobs: Jobs) -> None:
    with tmpfs(jobs.path / "full", "1m"):
        filler = jobs.path / "full" / "filler"
        filler.write_bytes(bytes(2**20 - 20_000))
        one = jobs.kvbench("extract", "--cache", "full", "--engine", "ray")
        _, err = one.communicate(timeout=PATIENCE)
        assert one.returncode == 2, err
        assert "Error: Cannot write " in err
        filler.unlink()
        ends(jobs.kvbench("extract", "--cache", "full", "--engine", "ray"))
        ends(jobs.kvbench("extract", "--cache", "plain"))
        assert same_banks(jobs, "plain", "full")


def test_a_session_trains_on_the_cluster(jobs: Jobs) -> None:
    plain = jobs.session("plain")
    _ = jobs.epochs
    assert jobs.session("there", "--kvbench-engine", "ray") == plain
    assert same_banks(jobs, "plain", "there")
    assert (jobs.path / "there" / "trainings").exists()


def test_no_cluster_is_a_sentence(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    one = jobs.kvbench("extract", "--engine", "ray")
    _, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 2
    assert "Error: Ray cannot be reached: " in err
