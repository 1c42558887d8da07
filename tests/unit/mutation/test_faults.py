"""The catalogue of faults: every row patches, and takes its patch off again."""

from __future__ import annotations

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
from kvbench.mutation.faults import FAULTS, fault
from kvbench.utils.errors import UserError

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


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_there_inside_its_block_and_gone_after_it(name: str) -> None:
    before = patched()
    with pytest.raises(KeyError, match="stop"), FAULTS[name].inject():  # noqa: PT012
        inside = patched()
        assert any(a is not b for a, b in zip(before, inside, strict=True)), "what it patches is not in the list"
        raise KeyError("stop")
    assert all(a is b for a, b in zip(before, patched(), strict=True))


def test_rows_name_configurations_that_exist_and_say_what_goes_wrong() -> None:
    ids = {row.id for row in configurations(list(STUDENTS), Recipe())}
    assert len(FAULTS) >= 50
    for row in FAULTS.values():
        assert row.probes
        assert {*row.probes, *row.controls} <= ids, row.id
        assert not {*row.probes} & {*row.controls}, row.id
        assert row.description


def test_an_unknown_fault_names_near_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown fault 'lr-x4'\. Did you mean .*lr-x2"):
        fault("lr-x4")
