"""Curves: what a judgement reads, as arrays at the seeds and epochs that all its configurations have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbench.results import history
from kvbench.stats.intervals import Floats

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Curves:
    """Arrays (S, E) of the configurations that a judgement needs, at the seeds and epochs that all of them have.

    ``prefix`` is put before a student's name to find its configuration. ``notes`` say what was left out.
    """

    prefix: str
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    values: Mapping[tuple[str, str], Floats]  # (configuration, metric) -> (S, E)
    notes: tuple[str, ...] = ()

    def curve(self, student: str, metric: str = "train_loss") -> Floats:
        """(S, E) values of a student's configuration."""
        return self.values[self.prefix + student, metric]

    def last(self, student: str, metric: str) -> Floats:
        """(S,) values at the last epoch."""
        return self.curve(student, metric)[:, -1]


def curves(histories: pd.DataFrame, configurations: Sequence[str], prefix: str) -> Curves:
    """Take what all ``configurations`` have in common out of a history frame; it must hold every one of them."""
    rows = history.check(histories[histories["configuration"].isin(configurations)], "history", finite=False)
    runs: dict[str, dict[int, set[int]]] = {name: {} for name in configurations}
    for name, seed, epoch in zip(*(rows[key] for key in history.KEYS), strict=True):
        runs[name].setdefault(int(seed), set()).add(int(epoch))
    every = {seed for run in runs.values() for seed in run}
    seeds = sorted(seed for seed in every if all(seed in run for run in runs.values()))
    grids = [run[seed] for run in runs.values() for seed in seeds]
    epochs = sorted(set.intersection(*grids)) if grids else []
    notes = []
    if left := sorted(every - set(seeds)):
        notes.append(f"left out, as not every configuration has it: seed {', '.join(map(str, left))}")
    longest = max((max(grid) for grid in grids), default=0)
    if epochs and longest > epochs[-1]:
        notes.append(f"judged at epoch {epochs[-1]}: not every run goes on to epoch {longest}")
    shared = rows[rows["seed"].isin(seeds) & rows["epoch"].isin(epochs)]
    values = {}
    for name in configurations:
        for metric in history.METRICS:
            cells = shared.loc[shared["configuration"] == name, metric].to_numpy(dtype=np.float64)
            cells = np.where(np.isinf(cells), np.nan, cells)  # a diverged run has no number
            values[name, metric] = cells.reshape(len(seeds), len(epochs))
    return Curves(prefix, tuple(seeds), tuple(epochs), values, tuple(notes))
