"""The tiny workload: images of noise, a teacher of two convolutions, students of a few weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from kvbench.core.models import SumOfHeads
from kvbench.core.student import Student
from kvbench.features.teacher import Teacher
from kvbench.harness.setup import Settings
from kvbench.studies import kv_memory, registry
from kvbench.studies.experiment import Experiment
from kvbench.workloads import WORKLOADS, Workload
from tests.support.banks import Dots, tiny_teacher
from tests.support.small import study


def _open(_row: Workload, split: str, _root: Path | None, count: int | None) -> Dots:
    assert count is not None
    return Dots(count, seed=0 if split == "train" else 10_000)


TINY = replace(
    WORKLOADS["fractals"],
    name="tiny",
    train_count=128,
    val_count=64,
    opener=_open,
    taps=("first", "second", "second"),
    seeds=2,
)


def _small(hidden: int) -> Callable[[Sequence[int], int], nn.Module]:
    def make(widths: Sequence[int], classes: int) -> nn.Module:
        return SumOfHeads([nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, classes)) for d in widths])

    return make


STUDY = replace(
    study("tiny", epochs=2, batch_size=64),
    students=tuple(replace(row, make=_small(hidden)) for hidden, row in enumerate(kv_memory.STUDY.students, 2)),
)


EXPERIMENT = Experiment(STUDY, TINY)


def _teacher(_settings: Settings, _classes: tuple[str, ...]) -> Teacher:
    return tiny_teacher()


def register_student(patch: pytest.MonkeyPatch, row: Student) -> None:
    """Put a student in the place of the one of its name, or behind all others."""
    rows = {one.name: one for one in STUDY.students} | {row.name: row}
    patch.setitem(registry.BUILT_IN, STUDY.name, replace(STUDY, students=tuple(rows.values())))


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the workload, its teacher and small students known; a process of its own calls it in its conftest.py."""
    patch.setitem(WORKLOADS, "tiny", TINY)
    patch.setattr(Settings, "teacher", _teacher)
    patch.setitem(registry.BUILT_IN, STUDY.name, STUDY)
