"""The small workload, for tests and for processes that tests start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvbench.studies import kv_memory, registry
from kvbench.studies.experiment import Experiment
from kvbench.studies.study import Study
from kvbench.workloads import WORKLOADS, Workload, generated

SMALL = replace(
    WORKLOADS["fractals"],
    name="small",
    train_count=640,
    val_count=100,
    opener=generated(classes=10),
    taps=("layer3.1", "layer4.0", "layer4.1"),  # of tiny_resnet, too
    seeds=2,
)
EPOCHS, LR = 3, 3e-3


def study(workload: str = "small", **recipe: Any) -> Study:
    """The source's study, with fields of its recipes for a workload of a test."""
    changes = {"epochs": EPOCHS, "lr": LR, **recipe}
    return replace(kv_memory.STUDY, workloads={**kv_memory.STUDY.workloads, workload: changes})


EXPERIMENT = Experiment(study(), SMALL)


def register(patch: pytest.MonkeyPatch, row: Workload = SMALL, **recipe: Any) -> None:
    """Make a workload known, with fields of the recipes; a process of its own calls it in its conftest.py."""
    patch.setitem(WORKLOADS, row.name, row)
    patch.setitem(registry.BUILT_IN, kv_memory.STUDY.name, study(row.name, **recipe))
