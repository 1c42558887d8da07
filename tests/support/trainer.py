"""Random banks, and students that are trained on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.core.trainer import Training
from kvbench.studies import kv_memory

SCHEDULED: dict[str, Any] = {"schedule": "step", "configuration": "lr_{student}"}  # changes of a recipe
CPU = torch.device("cpu")
WIDTHS = (4, 6, 6)
METRICS = ["train_loss", "val_loss", "val_accuracy", "agreement"]
ROW = ["configuration", "seed", "epoch", *METRICS, "seconds"]


def random_bank(count: int = 150, classes: int = 5, seed: int = 0, device: str = "cpu") -> FeatureBank:
    g = torch.Generator().manual_seed(seed)
    taps = tuple(torch.randn(count, d, generator=g).to(device) for d in WIDTHS)
    logits, labels = 2 * torch.randn(count, classes, generator=g), torch.randint(classes, (count,), generator=g)
    return FeatureBank(taps, logits.to(device), labels.to(device))


def mine(make: Callable[..., Any], name: str = "Mine") -> Student:
    """A student of a test, which reads all taps."""
    return Student(name, make, taps=tuple(range(-len(WIDTHS), 0)))


def config(student: str | Student = "Model1", **recipe: Any) -> Configuration:
    row = kv_memory.STUDY.student(student) if isinstance(student, str) else student
    return Configuration(row, Recipe(**{"epochs": 3, "lr": 1e-2, **recipe}))


def history(run: Run | Training) -> list[dict[str, Any]]:
    """The history of ``run``, trained to its end, without the seconds."""
    while not all(r.done for r in (run.runs if isinstance(run, Training) else [run])):
        run.epoch()
        run.evaluate()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


def fresh(configuration: Configuration | None = None, seed: int = 0) -> Run:
    return Run(configuration or config(), random_bank(), random_bank(40, seed=1), seed)
