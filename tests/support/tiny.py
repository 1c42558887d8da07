"""The tiny workload: images of noise, a teacher of two convolutions, students of a few weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from kvbench.core.models import STUDENTS, SumOfHeads
from kvbench.core.recipe import Recipe
from kvbench.features.teacher import Teacher
from kvbench.harness.setup import Settings
from kvbench.workloads import WORKLOADS, Workload
from tests.support.banks import Dots, tiny_teacher


def _open(_row: Workload, split: str, _root: Path | None, count: int | None) -> Dots:
    assert count is not None
    return Dots(count, seed=0 if split == "train" else 10_000)


TINY = replace(
    WORKLOADS["fractals"],
    name="tiny",
    train_count=128,
    val_count=64,
    recipe=Recipe(epochs=2, batch_size=64, lr=3e-3),
    opener=_open,
    taps=("first", "second", "second"),
    seeds=2,
)


def _teacher(_settings: Settings, _classes: tuple[str, ...]) -> Teacher:
    return tiny_teacher()


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the workload, its teacher and small students known; a process of its own calls it in its conftest.py."""
    patch.setitem(WORKLOADS, "tiny", TINY)
    patch.setattr(Settings, "teacher", _teacher)
    for hidden, (name, row) in enumerate(list(STUDENTS.items()), 2):

        def make(widths: object, classes: int, reads: int = row.reads, hidden: int = hidden) -> nn.Module:
            assert isinstance(widths, (list, tuple))
            return SumOfHeads(
                [
                    nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, classes))
                    for width in widths[-reads:]
                ]
            )

        patch.setitem(STUDENTS, name, replace(row, make=make))
