"""The contracts on imports between packages hold, and an import that breaks one is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("importlinter")
COMMAND = "from importlinter.cli import lint_imports_command as command; command()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `lint-imports` on the packages in a folder."""
    words = [sys.executable, "-c", COMMAND, "--no-cache"]
    where = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(words, cwd=folder, env=where, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages and of the contracts."""
    without = shutil.ignore_patterns("__pycache__", "*.safetensors", "expected")
    for name in ("kvbench", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=without)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept(project: Path) -> None:
    result = lint(project)
    assert result.returncode == 0, result.stdout
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("core/recipe.py", "import kvbench.features.teacher", "Every package imports only from packages below it"),
        ("features/spec.py", "import kvbench.harness.plugin", "Every package imports only from packages below it"),
        ("results/history.py", "import torch", "Results, stats, findings, reference and reporting import no torch"),
        ("features/spec.py", "import pytest", "Only the harness imports pytest, only the command line typer"),
        ("data/base.py", "import benchmarks.performance", "The library never imports the benchmarks"),
        ("core/recipe.py", "import pandas", "The core imports torch and utils alone"),
        ("core/recipe.py", "import kvbench.core.trainer", "No import cycles inside a package"),
    ],
)
def test_an_import_that_breaks_a_contract_fails(project: Path, file: str, line: str, contract: str) -> None:
    path = project / "kvbench" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = lint(project)
    assert result.returncode == 1, result.stderr
    assert f"{contract} BROKEN" in " ".join(result.stdout.split())
