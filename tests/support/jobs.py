"""A project of the tiny workload, and processes that are started in it, as the jobs of an array are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.resume import timeless
from tests.support.tiny import STUDY, TINY

# The tiny workload in parts of 32 rows. Epochs are counted, KILLED_AFTER ends the process so many epochs on.
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
HERE = Path(__file__).parent
store.ROWS = extract.BATCH = 32
chunks, done = Run.chunks, []

def counted(run):
    if not run.done:
        if len(done) == int(os.environ.get("KILLED_AFTER", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(run)
        with HERE.joinpath("epochs").open("a") as file:
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
    """A project, and processes started in it; as a block, none is left behind it."""

    def __init__(self, path: Path):
        self.path = path
        self._started: list[subprocess.Popen[str]] = []
        (path / "benchmarks").mkdir()
        shutil.copy(ROOT / "benchmarks" / "test_ablation.py", path / "benchmarks")
        (path / "conftest.py").write_text(CONFTEST)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._started:
            if one.poll() is None:
                one.kill()
                one.communicate(timeout=60)

    def start(self, *arguments: str, after: int = -1) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "KILLED_AFTER": str(after)}
        one = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.path,
            env=env,
        )
        self._started.append(one)
        return one

    def kvbench(self, command: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return self.start("kvbench", command, "--workload", "tiny", "--device", "cpu", *arguments, **options)

    def begin_session(self, cache: str, *arguments: str) -> subprocess.Popen[str]:
        chosen = ("--kvbench-workload", "tiny", "--kvbench-device", "cpu", "--kvbench-cache", cache, *arguments)
        return self.start("pytest", "benchmarks", *chosen, f"--benchmark-json={cache}.json", "-p", "no:cacheprovider")

    def session(self, cache: str, *arguments: str) -> list[dict[str, Any]]:
        """Run the suite; the histories it saves."""
        return self.end_session(cache, self.begin_session(cache, *arguments))

    def end_session(self, cache: str, one: subprocess.Popen[str]) -> list[dict[str, Any]]:
        told = "".join(one.communicate(timeout=PATIENCE))
        assert one.returncode == 1, f"there is no reference\n{told}"
        return timeless(self.path / f"{cache}.json")

    def tables(self, cache: str) -> list[str]:
        """The tables and verdicts of a session's report, without its seconds."""
        _, _, tables = (self.path / cache / f"report-{TINY.name}.md").read_text().partition("\n## Tables\n")
        found, _, _ = tables.partition("\n## Seconds")
        assert "| Model1 " in found
        lines = [line for line in found.splitlines() if " seconds " not in line and not line.startswith("|:-")]
        return [" ".join(line.split()) for line in lines]  # seconds make columns wider

    @property
    def epochs(self) -> list[str]:
        """What has been trained since this was last asked."""
        path = self.path / "epochs"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


def ends(one: subprocess.Popen[str]) -> str:
    """What a process prints that ends well."""
    out, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, err
    return out


def content_of(bank: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bank.glob("part-*")}
