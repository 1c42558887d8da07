"""What several tests share: a small workload, its teacher, and a project that runs the suite on it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import kvbench.session  # noqa: F401 (pytester forgets what is first imported inside it, and pandas loads only once)
import kvbench.settings
import kvbench.trainer  # noqa: F401
from kvbench.recipe import Recipe
from kvbench.teacher import build
from kvbench.workloads import WORKLOADS, Workload, generated

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
SMALL = replace(
    WORKLOADS["fractals"],
    name="small",
    size=32,
    train_count=320,
    val_count=100,
    recipe=Recipe(epochs=3, lr=3e-3),
    opener=generated(classes=10),
    seeds=2,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny-imagenet", default=os.environ.get("KVBENCH_TINY_IMAGENET"), help="folder of the unpacked Tiny ImageNet"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture
def tiny_imagenet_root(request: pytest.FixtureRequest) -> Path:
    """The unpacked Tiny ImageNet; without it, the test skips and says so."""
    given = request.config.getoption("--tiny-imagenet")
    if not given:
        pytest.skip("needs photographs: name the unpacked tiny-imagenet-200 with --tiny-imagenet or KVBENCH_TINY_IMAGENET")
    return Path(given)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ResNet18 of 10 classes, as a checkpoint: what matters in tests is that it is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build("resnet18", 10)
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Workload:
    """The small workload, known by its name while the test runs."""
    monkeypatch.setitem(WORKLOADS, "small", SMALL)
    return SMALL
