"""What several tests share: a small workload, its teacher, and a project that runs the suite on it."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # small tensors: more threads only wait for each other, here and in workers

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file

import kvbench.core.trainer
import kvbench.features.store
import kvbench.harness.session
import kvbench.harness.setup
from kvbench.features.teacher import shipped
from kvbench.workloads import Workload
from tests.support import ROOT
from tests.support.banks import ROWS
from tests.support.project import Project
from tests.support.small import SMALL, register

if TYPE_CHECKING:
    from benchmarks.reliability.laboratory import Laboratory

PATIENCE, SLOW_PATIENCE = 1200, 7200  # seconds

pytest_plugins = ["pytester", "tests.support.commands", "tests.support.resume", "tests.support.sessions"]

for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
    del os.environ[name]  # what a test starts is no worker: pytest-benchmark would time nothing there
os.environ.pop("GITHUB_STEP_SUMMARY", None)  # what tests run is no step of whoever runs the tests
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell has it so for what it starts with &
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny-imagenet", default=os.environ.get("KVBENCH_TINY_IMAGENET"), help="folder of the unpacked Tiny ImageNet"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)
        timed = not config.pluginmanager.hasplugin("timeout") or item.get_closest_marker("timeout")
        if not timed:  # whatever a test waits for, it does not wait for ever
            item.add_marker(pytest.mark.timeout(SLOW_PATIENCE if "slow" in item.path.parts else PATIENCE))


@pytest.fixture
def tiny_imagenet_root(request: pytest.FixtureRequest) -> Path:
    """The unpacked Tiny ImageNet; without it, the test skips and says so."""
    given = request.config.getoption("--tiny-imagenet")
    if not given:
        pytest.skip("needs photographs: give --tiny-imagenet (or KVBENCH_TINY_IMAGENET) the unpacked tiny-imagenet-200")
    return Path(given)


@pytest.fixture(scope="session")
def resnet18_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped teacher of fractals, cut to the first 10 of its classes."""
    state = shipped("fractals").module.state_dict()
    cut = {name: value[:10].contiguous() if name.startswith("fc.") else value for name, value in state.items()}
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    save_file(cut, path)
    return path


@pytest.fixture(scope="session")
def small_checkpoint(resnet18_checkpoint: Path) -> Path:
    """The small workload's teacher; that of unit tests is a smaller one."""
    return resnet18_checkpoint


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Workload:
    """The small workload, known by its name while the test runs."""
    register(monkeypatch)
    return SMALL


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one batch, so that small banks have several."""
    monkeypatch.setattr(kvbench.features.store, "ROWS", ROWS)


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A small project with references recorded here, on which faults are tried, and its undisturbed tables."""
    from benchmarks.reliability.laboratory import Laboratory

    return Laboratory(tmp_path_factory.mktemp("reliability"), seed=1)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs them leaves a bank and references for the others."""
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture
def run(pytester: pytest.Pytester, small: object, small_checkpoint: Path, recorded: Path) -> Project:
    """Run the shipped benchmarks on the small workload in a project of its own that has references of six seeds."""
    shutil.copytree(ROOT / "benchmarks", pytester.path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    pytester.makeini(f"[pytest]\nkvbench_workload = small\nkvbench_checkpoint = {small_checkpoint}\n")

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("benchmarks", "-p", "no:cacheprovider", *arguments, no_reraise_ctrlc=True)

    if not (recorded / "expected").exists():
        run("--kvbench-update-expected", "--kvbench-seeds", "6")
        shutil.copytree(pytester.path / ".kvbench", recorded / ".kvbench")
        shutil.copytree(pytester.path / "expected", recorded / "expected")
    else:
        shutil.copytree(recorded, pytester.path, dirs_exist_ok=True)
    return run
