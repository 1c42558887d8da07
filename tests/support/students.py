"""Synthetic curves of all students, and what a finding says about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kvbench.findings.finding import Finding
from kvbench.findings.judge import Judgement, judge
from kvbench.results import history
from tests.support import DESIGN

STUDENTS = [f"Model{n}" for n in range(1, 8)]
LOSSES = dict(zip(STUDENTS, (0.10, 0.11, 0.32, 0.30, 0.40, 0.36, 0.33), strict=True))
ACCURACIES = dict(zip(STUDENTS, (0.70, 0.69, 0.64, 0.65, 0.60, 0.62, 0.63), strict=True))


def student_runs(
    losses: Mapping[str, float] | None = None,
    accuracies: Mapping[str, float] | None = None,
    *,
    prefixes: Sequence[str] = ("lr_", ""),
    seeds: int = 1,
    epochs: int = 4,
    noise: float = 0.0,
    seconds: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Curves that fall from e by the same factor each epoch to the last losses, given a student or a configuration."""
    losses, accuracies = {**LOSSES, **(losses or {})}, {**ACCURACIES, **(accuracies or {})}
    spread = np.random.default_rng(1)
    rows = []
    for name in [prefix + student for prefix in prefixes for student in STUDENTS]:
        student = name.removeprefix("lr_")
        for seed in range(seeds):
            last = losses.get(name, losses[student]) * math.exp(noise * spread.normal())
            accuracy = accuracies.get(name, accuracies[student]) + 0.2 * noise * spread.normal()
            rows += [
                {
                    "configuration": name,
                    "seed": seed,
                    "epoch": epoch,
                    "train_loss": math.e * (last / math.e) ** ((epoch - 1) / (epochs - 1)),
                    "val_accuracy": accuracy,
                    "seconds": None if seconds is None else seconds[student],
                }
                for epoch in range(1, epochs + 1)
            ]
    return history.frame(rows)


def verdicts(
    name: str | Finding, histories: pd.DataFrame, recipe: str = "constant lr", costs: Mapping[str, float] | None = None
) -> tuple[Judgement, dict[str, str]]:
    """A finding's judgement on a recipe, with the verdict of each clause."""
    row = DESIGN.finding(name) if isinstance(name, str) else name
    (judgement,) = [j for j in judge(histories, DESIGN, costs, [row]) if j.recipe == recipe]
    return judgement, {clause.id: clause.verdict for clause in judgement.clauses}
