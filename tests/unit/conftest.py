"""Unit tests are quick: what starts programs or passes a ResNet lies in tests/integration, and this keeps it so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torchvision.models import ResNet

from kvbench.reference import store
from tests.support import tiny_resnet

tiny_resnet.register()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to start a program and to pass a ResNet."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a unit test starts no program and passes no ResNet: it belongs in tests/integration")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(ResNet, "forward", refuse)


@pytest.fixture(scope="module", autouse=True)
def no_shipped_references() -> Iterator[None]:
    """Only references that a test makes: those that ship with kvbench would be found under the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHIPPED", Path("nowhere"))
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher of 10 classes, of the architecture `tiny_resnet`."""
    return tiny_resnet.save(tmp_path_factory.mktemp("teacher") / "small.safetensors")
