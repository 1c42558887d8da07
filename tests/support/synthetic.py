"""Synthetic histories and references, of drawn numbers, for tests of the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvbench.reference.store import Reference, load
from kvbench.reference.update import update
from kvbench.results import history
from tests.support import DESIGN

ALL = DESIGN.names
LEVELS = {"Model1": 0.05, "Model2": 0.08, "Model3": 0.2, "Model4": 0.25, "Model5": 0.3, "Model6": 0.35, "Model7": 0.22}


def runs(seeds: Sequence[int], names: Sequence[str] = ALL, *, shift: float = 0.0, jitter: float = 0.0) -> pd.DataFrame:
    """Three epochs of every configuration: log losses with SD 0.02 between seeds, accuracies with SD 0.004.

    The same seed has the same numbers in every call, but for ``shift`` of log losses and ``jitter`` of new noise.
    """
    rows = []
    for name in names:
        recipe, student = DESIGN.find(name)
        level = LEVELS[student] * (0.9 if recipe == "StepLR" else 1)
        for seed in seeds:
            own = np.random.default_rng([ALL.index(name), seed])
            other = np.random.default_rng([ALL.index(name), seed, 1, int(jitter * 1e9)])
            moves = own.normal(0, 1, 5) + jitter * other.normal(0, 1, 5)
            for epoch, factor in enumerate((8, 3, 1), 1):
                loss = level * factor * float(np.exp(0.02 * moves[0] + shift))
                rows.append(
                    {
                        "configuration": name,
                        "seed": seed,
                        "epoch": epoch,
                        "train_loss": loss,
                        "val_loss": 1.1 * loss * float(np.exp(0.02 * moves[1])),
                        "val_accuracy": 0.7 - level / 3 + 0.004 * moves[2],
                        "agreement": 0.8 - level / 3 + 0.004 * moves[3],
                        "seconds": (1 + level) * float(np.exp(0.05 * moves[4])),
                    }
                )
    return history.frame(rows)


def reference(
    folder: Path, seeds: int = 20, replicates: int = 6, names: Sequence[str] = ALL, **facts: object
) -> Reference:
    """A reference of drawn numbers, with replicates that rounding moved by 1% of a seed's spread."""
    facts = {"random_numbers": "here", **facts}
    others = runs(range(replicates), names, jitter=0.01)
    update(folder, "synthetic", DESIGN, runs(range(seeds), names), facts, full=True, replicates=others)
    return load(folder, "synthetic", DESIGN)
