"""Clauses: one comparison each, with a margin per seed, an interval and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbench import history
from kvbench.statistics import Floats, mean_interval

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of the interval that decides a clause
HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
RATIO, DIFFERENCE, EPOCHS = "ratio", "difference", "epochs"  # what a margin is in


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


@dataclass(frozen=True)
class Clause:
    """One comparison of a finding, judged.

    Args:
        id: stable inside the finding and recipe, such as ``Model1-loss``.
        sentence: what is claimed, with any limit in it.
        scale: ``ratio`` (margins are natural logarithms), ``difference`` or ``epochs``.
        margins: per seed; positive supports the clause.
        margin, low, high: their mean and its 95% interval; infinite bounds for one seed, NaN if a number is missing.
        n: seeds with a margin.
        verdict: ``holds``, ``fails`` or ``undecided``.
        numbers: what was compared, mean over the seeds, in words.
        gating: whether it counts for the finding's verdict; the others are reported beside it.
        note: why it could not be decided as usual, if so.
    """

    id: str
    sentence: str
    scale: str
    margins: Mapping[int, float]
    margin: float
    low: float
    high: float
    n: int
    verdict: str
    numbers: str
    gating: bool = True
    note: str = ""

    def describe(self) -> str:
        """One line: verdict, sentence, numbers, margin with its interval."""
        beside = "" if self.gating else " (reported beside, does not count)"
        return f"{self.verdict:<9}  {self.id}{beside}: {self.sentence}: {self.numbers}; {self.describe_margin()}"

    def describe_margin(self) -> str:
        """The mean margin with interval and n, for the reader: log ratios as ratios."""
        if math.isnan(self.margin):
            return self.note
        text = f"margin {show(self.margin, self.scale)}"
        if self.n > 1:
            text += f", 95% interval {show(self.low, self.scale)} to {show(self.high, self.scale)}, {self.n} seeds"
        else:
            text += ", one seed: no interval"
        return f"{text}; {self.note}" if self.note else text


def show(margin: float, scale: str) -> str:
    """A margin for the reader: ``1.25x`` for a log ratio, else with its sign."""
    if math.isnan(margin):
        return "unknown"
    if scale == RATIO:
        return f"{math.exp(min(margin, 700)):.3g}x"  # exp overflows above 709
    return f"{margin:+.2f} epochs" if scale == EPOCHS else f"{margin:+.4f}"


def clause(
    name: str,
    sentence: str,
    scale: str,
    seeds: Sequence[int],
    margins: Floats,
    numbers: str,
    *,
    tie_holds: bool = False,
    gating: bool = True,
    contradicted: bool = False,
    note: str = "",
) -> Clause:
    """Judge one comparison from its margins (S,).

    One seed, or seeds that all agree to the last digit, are judged by the margin's sign, where no difference counts as
    ``tie_holds``. Otherwise the interval decides: above 0 holds, below 0 fails, else undecided. A margin that is NaN
    leaves the clause undecided: leaving out a run that diverged would flatter the others. ``contradicted`` says that
    every seed by itself speaks against the clause though the margins are only bounds: it fails.
    """
    assert margins.shape == (len(seeds),)
    exact = np.round(margins, 12) + 0.0  # so that 0.646 - 0.636 - 0.01 is the tie that it is; + 0.0 turns -0 into 0
    missing = [seed for seed, margin in zip(seeds, exact, strict=True) if math.isnan(margin)]
    mean, low, high = mean_interval(exact, LEVEL)
    if missing:
        which = f"seed {', '.join(map(str, missing))}" if len(missing) < len(seeds) else "any seed"
        verdict, note = UNDECIDED, f"a number is missing or not finite for {which}"
    elif contradicted:
        verdict = FAILS
    elif exact.size == 1 or np.ptp(exact) == 0:
        verdict = HOLDS if exact[0] > 0 or (tie_holds and exact[0] == 0) else FAILS
    else:
        verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
    per_seed = {seed: float(margin) for seed, margin in zip(seeds, exact, strict=True)}
    found = len(seeds) - len(missing)
    return Clause(name, sentence, scale, per_seed, mean, low, high, found, verdict, numbers, gating, note)
