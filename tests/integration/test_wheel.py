"""The wheel, installed in a folder of its own and used far from the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel of this source was installed, without what it depends on."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "expected", source / "expected")
    shutil.copytree(ROOT / "kvbench", source / "kvbench", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    shutil.rmtree(source)
    return folder / "site"


def kvbench(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed package, in a folder from which the clone can't be seen."""
    code = "import os, kvbench.cli as cli; assert cli.__file__.startswith(os.environ['PYTHONPATH']); cli.main()"
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workload", ["imagenet", "tiny-imagenet", "fractals"])
def test_the_wheel_shows_the_references_that_it_ships(installed: Path, workload: str, tmp_path: Path) -> None:
    result = kvbench(installed, "report", "--expected", workload, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"# kvbench: {workload}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workload", ["tiny-imagenet", "fractals"])
def test_the_wheel_shows_the_references_of_the_second_study(installed: Path, workload: str, tmp_path: Path) -> None:
    result = kvbench(installed, "report", "--study", "linear-probes", "--expected", workload, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "separability-rises-with-depth" in result.stdout


def test_a_reference_of_ones_own_comes_before_the_shipped_one(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "expected" / "imagenet", tmp_path / "expected" / "fractals")
    result = kvbench(installed, "report", "--expected", "fractals", cwd=tmp_path)
    assert "- runs: n = 1 of each configuration" in result.stdout


def test_what_lies_nowhere_is_named_with_what_there_is(installed: Path, tmp_path: Path) -> None:
    result = kvbench(installed, "report", "--expected", "flowers", cwd=tmp_path)
    assert result.returncode == 2
    assert "There is no reference for flowers in expected (there: fractals, imagenet, tiny-imagenet)." in result.stderr


def test_the_wheel_writes_a_suite_of_ones_own(installed: Path, tmp_path: Path) -> None:
    result = kvbench(installed, "init", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("conftest.py", "test_ablation.py"):
        assert (tmp_path / "benchmarks" / name).read_text() == (ROOT / "kvbench" / "templates" / name).read_text()
    assert "one linear layer" in kvbench(installed, "students", cwd=tmp_path).stdout


def test_the_wheel_has_the_teachers_and_its_types(installed: Path) -> None:
    for name in (
        "weights/fractals.safetensors",
        "weights/tiny-imagenet.safetensors",
        "py.typed",
        "reporting/templates/page.html",
    ):
        assert (installed / "kvbench" / name).is_file()
