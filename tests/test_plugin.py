"""The plugin, run as a user runs it: in another project's folder, on a small workload."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs them leaves a bank and references for the others."""
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture
def run(pytester: pytest.Pytester, small: object, small_checkpoint: Path, recorded: Path) -> Run:
    """Run the shipped benchmarks on the small workload in a project of its own that has references of four seeds."""
    shutil.copytree(ROOT / "benchmarks", pytester.path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    pytester.makeini(f"[pytest]\nkvbench_workload = small\nkvbench_checkpoint = {small_checkpoint}\n")

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("benchmarks", "-p", "no:cacheprovider", *arguments)

    if not (recorded / "expected").exists():
        run("--kvbench-update-expected", "--kvbench-seeds", "4")
        shutil.copytree(pytester.path / ".kvbench", recorded / ".kvbench")
        shutil.copytree(pytester.path / "expected", recorded / "expected")
    else:
        shutil.copytree(recorded, pytester.path, dirs_exist_ok=True)
    return run


def test_passes_and_saves(run: Run, pytester: pytest.Pytester) -> None:
    result = run("--benchmark-save=first")
    result.assert_outcomes(passed=14, xfailed=0)
