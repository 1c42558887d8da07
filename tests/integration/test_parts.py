"""Parts of a run in processes of their own, as a job array starts them: what they leave is what one process leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.resume import timeless
from tests.support.tiny import STUDY, TINY

# The tiny workload in parts of 32 rows. EPOCHS counts what is trained, KILLED_AFTER ends the process so many epochs on.
CONFTEST = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import pytest, torch
from kvbench.core.run import Run
from kvbench.features import extract, store
from tests.support.tiny import register
register(pytest.MonkeyPatch())
torch.set_num_threads(1)
store.ROWS = extract.BATCH = 32
chunks, done = Run.chunks, []

def counted(run):
    if not run.done:
        if len(done) == int(os.environ.get("KILLED_AFTER", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(run)
        with Path(os.environ["EPOCHS"]).open("a") as file:
            file.write(f"{{run.configuration.id}} {{run.seed}} {{run.epochs_done + 1}}\\n")
    yield from chunks(run)

Run.chunks = counted

def pytest_benchmark_generate_machine_info():  # the usual ones take a second
    return {{}}

def pytest_benchmark_generate_commit_info():
    return {{}}
"""
PATIENCE = 600  # seconds: machines are shared
ALL = 2 * TINY.seeds * 2 * len(STUDY.students)  # epochs of a session: two an epoch's recipe, two recipes


class Jobs:
    """A project, and processes started in it."""

    def __init__(self, path: Path):
        self.path = path
        (path / "benchmarks").mkdir()
        shutil.copy(ROOT / "benchmarks" / "test_ablation.py", path / "benchmarks")
        (path / "conftest.py").write_text(CONFTEST)

    def start(self, *arguments: str, after: int = -1) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "EPOCHS": str(self.path / "epochs"), "KILLED_AFTER": str(after)}
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.path,
            env=env,
        )

    def kvbench(self, command: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return self.start("kvbench", command, "--workload", "tiny", "--device", "cpu", *arguments, **options)

    def session(self, cache: str) -> list[dict[str, Any]]:
        """Run the suite; the histories it saves."""
        chosen = ("--kvbench-workload", "tiny", "--kvbench-device", "cpu", "--kvbench-cache", cache)
        one = self.start("pytest", "benchmarks", *chosen, f"--benchmark-json={cache}.json", "-p", "no:cacheprovider")
        told = "".join(one.communicate(timeout=PATIENCE))
        assert one.returncode == 1, f"there is no reference\n{told}"
        return timeless(self.path / f"{cache}.json")

    @property
    def epochs(self) -> list[str]:
        """What has been trained since this was last asked."""
        path = self.path / "epochs"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def ends(one: subprocess.Popen[str]) -> str:
    """What a process prints that ends well."""
    out, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, err
    return out


def test_parts_at_once_in_any_order_twice_and_one_killed_leave_what_one_process_does(jobs: Jobs) -> None:
    plain = jobs.session("plain")
    assert len(jobs.epochs) == ALL

    extracting = [jobs.kvbench("extract", "--cache", "cut", "--part", part) for part in ("2/2", "1/2")]
    told = "".join(map(ends, extracting))
    assert told.count("train: 2 of 4 part files are done, in cut/tiny-train-") == 2
    for split in ("train", "val"):
        (one,), (other,) = (list((jobs.path / cache).glob(f"tiny-{split}-*")) for cache in ("plain", "cut"))
        assert content_of(one) == content_of(other), "byte for byte"

    training = [("3/3", -1), ("1/3", 9), ("2/3", -1)]
    first = [jobs.kvbench("train", "--cache", "cut", "--part", part, after=after) for part, after in training]
    ends(first[0])
    first[1].communicate(timeout=PATIENCE)
    ends(first[2])
    assert first[1].returncode == -signal.SIGKILL
    trained = jobs.epochs
    assert len(trained) == len({*trained}), "no two parts train the same"
    again = [jobs.kvbench("train", "--cache", "cut", "--part", part) for part in ("1/3", "3/3")]
    told = "".join(map(ends, again))
    assert "tiny: part 3 of 3 is done, 9 trainings of a seed: 0 trained, 9 found, in " in told
    went_on = jobs.epochs
    assert len({*trained, *went_on}) == ALL
    assert len(trained) + len(went_on) <= ALL + 1, "but for the epoch that it was killed in"

    assert jobs.session("cut") == plain
    assert jobs.epochs == [], "a session trains nothing"
    saved = [json.loads((jobs.path / f"{cache}.json").read_text())["kvbench"]["reasons"] for cache in ("plain", "cut")]
    assert saved[0] == saved[1]


def content_of(bank: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bank.glob("part-*")}
