"""Sides of a comparison, of drawn numbers: two students, one finding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import below
from kvbench.reference import verdicts
from kvbench.reference.sides import Side
from kvbench.reference.store import Reference
from kvbench.results import history
from kvbench.results.saved import Outcome

PAIR = Design(
    "pair", {"Adam": {"linear": "linear", "mlp": "mlp"}},
    findings={"mlp-lower": Finding("mlp-lower", "the MLP ends lower", below("mlp", "linear"))},
)  # fmt: skip


def runs(
    seeds: Sequence[int] = range(5), names: Sequence[str] = ("linear", "mlp"), *, epochs: int = 3, jitter: float = 0.0
) -> pd.DataFrame:
    """Falling losses, the MLP's a third lower; a seed has the same numbers in every call but for the ``jitter``."""
    rows = []
    for name in names:
        for seed in seeds:
            own = np.random.default_rng([len(name), seed]).normal(0, 0.01, 4)
            own += jitter * np.random.default_rng([len(name), seed, 1]).normal(0, 1, 4)
            for epoch in range(1, epochs + 1):
                loss = (0.2 if name == "mlp" else 0.3) * 2.0 ** (epochs - epoch) * float(np.exp(own[0]))
                rows.append({"configuration": name, "seed": seed, "epoch": epoch, "train_loss": loss,
                             "val_loss": 1.1 * loss * float(np.exp(own[1])), "val_accuracy": 0.7 + own[2] / 5,
                             "agreement": 0.8 + own[3] / 5, "seconds": 1 + 0.1 * abs(own[1])})  # fmt: skip
    return history.frame(rows)


def changed(histories: pd.DataFrame, name: str, **factors: float) -> pd.DataFrame:
    """The same with metrics of one configuration multiplied."""
    made = histories.copy()
    for metric, factor in factors.items():
        made.loc[made["configuration"] == name, metric] *= factor
    return made


def side(
    name: str, histories: pd.DataFrame, outcome: Outcome | None = Outcome.PASSED, design: Design = PAIR,
    workload: str = "w", **facts: Any,
) -> Side:  # fmt: skip
    """A saved run as a side; its seeds draw the usual random numbers."""
    known = {"random_numbers": "here", "study": design.study, **facts}
    empty = history.frame([])
    made = Reference(workload, design, Path(name), histories, verdicts.frame([]), known, empty, "")
    recorded = verdicts.frame(made.judgements)
    made = Reference(workload, design, Path(name), histories, recorded, known, empty, "")
    return Side(name, f"{name}.json", made, outcome)
