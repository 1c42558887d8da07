"""A study whose students are formulas, so that grids are swept in no time; as a program, it sweeps one."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.student import Student
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import below, better
from kvbench.harness.sweep import sweep
from kvbench.reporting.maps import Sweep
from kvbench.studies import registry
from kvbench.studies.grid import Grid
from kvbench.studies.study import Study
from kvbench.workloads import Workload
from tests.support import tiny

NAMES = ("plain", "momentum")
TRAINED: list[tuple[str, float, int]] = []  # configuration, lr and seed of each epoch that was trained


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the study and the tiny workload known in this process, with nothing trained, and start no program."""
    tiny.register(patch)
    patch.setitem(registry.BUILT_IN, STUDY.name, STUDY)
    TRAINED.clear()
    for program in ("plugin.get_tag", "session.get_machine_id"):  # what pytest-benchmark would start
        patch.setattr(f"pytest_benchmark.{program}", lambda *_: "here")


def train(configuration: Configuration, seed: int, _device: torch.device) -> Iterator[dict[str, float]]:
    """Momentum is better where lr is above 0.04; it diverges above 0.5."""
    recipe, name = configuration.recipe, configuration.student.name
    dice = random.Random(f"{seed} {configuration.id}")
    steep = 1.0 if name == "plain" else 25 * recipe.lr if recipe.lr < 0.5 else float("nan")
    for epoch in range(recipe.epochs):
        TRAINED.append((configuration.id, recipe.lr, seed))
        yield {"train_loss": 3 / (1 + steep * (1 + epoch)) * dice.uniform(0.99, 1.01), "val_accuracy": 0.5}


HELPS = Finding("momentum-helps", "momentum helps", below("momentum", "plain", "train_loss"))
STUDY = Study(
    "formulas",
    "Formulas",
    tuple(map(Student, NAMES)),
    (Recipe(epochs=2), Recipe("StepLR", "lr_{student}", epochs=2, schedule="step")),
    (
        HELPS,
        Finding("both-help", "loss and accuracy are better", better("momentum", "plain")),
        Finding("step-helps", "a schedule helps", better("plain", across=("StepLR", "constant lr"))),
    ),
    train=train,
)
HERE = Workload.without_images("here")
SEEDS = 4


def swept(cache: Path, study: Study = STUDY, seeds: Any = SEEDS, findings: Any = (), **fields: Any) -> Sweep:
    """Sweep a grid of these fields."""
    return sweep(Grid(study, HERE, fields), seeds, findings, cache=cache, device="cpu")


def _main(cache: str, after: str) -> None:
    """Sweep a grid, killing itself after so many epochs; print its verdicts and how many epochs were trained."""

    def mortal(configuration: Configuration, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
        for row in train(configuration, seed, device):
            if len(TRAINED) > int(after):
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    from dataclasses import replace

    found = swept(Path(cache), replace(STUDY, train=mortal), lr=(0.02, 0.08), batch_size=(32, 64))
    sys.stdout.write(f"{found.verdicts.to_csv(index=False)}{len(TRAINED)} epochs\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
