"""The catalogue of faults: every row patches, and takes its patch off again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kvbench.core import models, trainer
from kvbench.core.models import STUDENTS, KeyValueMemory, ResidualChain, SumOfHeads
from kvbench.core.recipe import Recipe, configurations
from kvbench.core.trainer import Run
from kvbench.data import fractals
from kvbench.features import extract as extraction
from kvbench.harness.setup import Banks, Settings
from kvbench.mutation.faults import CATALOGUE, fault
from kvbench.utils.errors import UserError
from tests.support.small import SMALL

PATCHED: list[tuple[Any, str]] = [
    (Run, "__init__"),
    (Run, "epoch"),
    (Run, "evaluation"),
    (torch.optim, "Adam"),
    (torch.optim.Adam, "zero_grad"),
    (torch.nn.Module, "eval"),
    (torch, "randperm"),
    (torch, "split"),
    (F, "adaptive_avg_pool2d"),
    (trainer, "distillation_loss"),
    (models, "linear"),
    (KeyValueMemory, "__init__"),
    (KeyValueMemory, "forward"),
    (SumOfHeads, "forward"),
    (ResidualChain, "forward"),
    (extraction, "capture"),
    (extraction, "extract"),
    (fractals, "render"),
    (fractals, "IMAGENET_MEAN"),
]


def patched() -> list[Any]:
    return [getattr(owner, name) for owner, name in PATCHED]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_fault_is_there_inside_its_block_and_gone_after_it(name: str) -> None:
    before = patched()
    with pytest.raises(KeyError, match="stop"), CATALOGUE[name].inject():  # noqa: PT012
        inside = patched()
        assert any(a is not b for a, b in zip(before, inside, strict=True)), "what it patches is not in the list"
        raise KeyError("stop")
    assert all(a is b for a, b in zip(before, patched(), strict=True))


@pytest.fixture(scope="module")
def clean(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Banks]:
    """Settings of few images, and their banks without a fault."""
    row = replace(SMALL, train_count=20, val_count=10)
    settings = Settings(row, torch.device("cpu"), tmp_path_factory.mktemp("clean"), checkpoint=small_checkpoint)
    return settings, settings.open_banks()


@pytest.mark.parametrize("name", [name for name, row in CATALOGUE.items() if row.teacher])
def test_a_fault_of_the_teachers_pass_reaches_the_banks(
    name: str, clean: tuple[Settings, Banks], tmp_path: Path
) -> None:
    settings, banks = clean
    with CATALOGUE[name].inject():
        made = replace(settings, cache=tmp_path).open_banks()
    for one, other in ((banks.train, made.train), (banks.val, made.val)):
        assert any(not torch.equal(a, b) for a, b in zip(one.taps, other.taps, strict=True))
        assert torch.equal(one.labels, other.labels)


def test_rows_name_configurations_that_exist_and_say_what_goes_wrong() -> None:
    ids = {row.id for row in configurations(list(STUDENTS), Recipe())}
    assert len(CATALOGUE) >= 50
    for row in CATALOGUE.values():
        assert row.probes
        assert {*row.probes, *row.bystanders} <= ids, row.id
        assert not {*row.probes} & {*row.bystanders}, row.id
        assert row.what


def test_an_unknown_fault_names_near_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown fault 'lr-x4'\. Did you mean .*lr-x2"):
        fault("lr-x4")
