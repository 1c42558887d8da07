"""Curves: what a finding reads, as arrays at the seeds and epochs that all its configurations have; claims of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kvbench.findings.clauses import Claim
from kvbench.results import history
from kvbench.stats.intervals import Floats, log_losses
from kvbench.utils.errors import unknown
from kvbench.utils.text import number

if TYPE_CHECKING:
    import pandas as pd

EVERYONE = "all"  # names all students, where a group can stand
LOSS, ACCURACY = "train_loss", "val_accuracy"  # what claims are about, where they do not say
WORDS = {  # of each metric, in sentences
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "accuracy",
    "agreement": "agreement with the teacher",
    "seconds": "time of an epoch",
}
SHORT = {"train_loss": "loss", "val_accuracy": "accuracy"}  # in the ids of clauses
Costs = Mapping[str, float | None]  # configuration -> FLOPs per sample; None or absent: unknown


def rises(metric: str) -> bool:
    """Whether more of a metric is better. If so its margins are differences, else log ratios."""
    return metric in history.SHARES


def check_metric(metric: str) -> str:
    """Return a metric of the history; raises `UserError` naming the valid ones."""
    if metric not in history.METRICS:
        raise unknown("metric", metric, history.METRICS)
    return metric


@dataclass(frozen=True)
class Curves:
    """Curves of the configurations that a judgement needs, at the S seeds and E epochs that all of them have.

    Args:
        names: student -> its configuration.
        seeds, epochs: what all of them have.
        values: configuration -> (S, E, METRICS).
        notes: what was left out.
        groups: name of each group or tag -> its students.
        others: where two recipes are compared: student -> its configuration in the second.
    """

    names: Mapping[str, str]
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    values: Mapping[str, Floats]
    notes: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def second(self) -> Curves:
        """The same curves, where students stand for their configurations of the second recipe."""
        return replace(self, names=self.others, others=self.names)

    def members(self, name: str) -> tuple[str, ...]:
        """The students of a group or tag, of `EVERYONE`, or the one student of that name."""
        return tuple(self.names) if name == EVERYONE else self.groups.get(name, (name,))

    def name(self, student: str) -> str:
        """The configuration of a student; anything else as it is."""
        return self.names.get(student, student)

    def named(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Values of students as values of their configurations."""
        return {self.name(student): value for student, value in values.items()}

    def curve(self, student: str, metric: str = LOSS) -> Floats:
        """(S, E) values of a student; NaN where it was not measured or is not finite."""
        return self.values[self.name(student)][:, :, history.METRICS.index(metric)]

    def last(self, student: str, metric: str) -> Floats:
        """(S,) values at the last epoch."""
        return self.curve(student, metric)[:, -1]

    def claim(
        self, title: str, sentence: str, scale: str, margins: Mapping[str, Floats], values: Mapping[str, str], *,
        tie_holds: bool = False, gating: bool = True, contradicted: bool = False, note: str = "", some: bool = False,
    ) -> Claim:  # fmt: skip
        """Make a claim of margins (S,) against each rival, by its name for readers; the arguments are `Claim`'s.

        Example:
            >>> def margin_of_mlp(curves, costs):
            ...     gap = curves.last("mlp", "val_accuracy") - curves.last("linear", "val_accuracy")
            ...     values = means({"the gap": gap})
            ...     return [curves.claim("gap", "mlp is ahead", "difference", {"linear": gap}, values)]
        """
        matrix = np.stack(list(margins.values()), axis=1)
        return Claim(title, sentence, scale, self.seeds, matrix, tuple(margins), values, tie_holds, gating,
                     contradicted, note, some)  # fmt: skip


def means(values: Mapping[str, Floats], spec: str = ".3f") -> dict[str, str]:
    """What configurations have (S,), mean over the seeds, as text."""
    return {name: number(float(value.mean()), spec, missing="no number") for name, value in values.items()}


def lead(metric: str, mine: Floats, theirs: Floats) -> Floats:
    """By how much values are the better ones: the log ratio where less is better, else the difference."""
    return mine - theirs if rises(metric) else log_losses(theirs) - log_losses(mine)


@dataclass(frozen=True)
class Runs:
    """A history frame, checked and taken apart once: of each configuration the epochs by seed, and all numbers."""

    epochs: Mapping[str, Mapping[int, frozenset[int]]]
    rows: Mapping[str, tuple[Floats, Floats, Floats]]  # seeds (N,), epochs (N,), values (N, METRICS)

    @classmethod
    def of(cls, histories: pd.DataFrame) -> Runs:
        """Take a history frame apart, in whatever order its rows are; infinite values become NaN."""
        epochs: dict[str, dict[int, frozenset[int]]] = {}
        rows = {}
        checked = history.check(histories, "history", finite=False) if len(histories) else histories
        for name in history.configurations(checked):
            mine = history.of(checked, name)
            seeds, steps = mine["seed"].to_numpy(), mine["epoch"].to_numpy()
            values = mine[list(history.METRICS)].to_numpy(dtype=np.float64)
            rows[name] = seeds, steps, np.where(np.isinf(values), np.nan, values)  # a diverged run has no number
            epochs[name] = {int(seed): frozenset(steps[seeds == seed].tolist()) for seed in np.unique(seeds)}
        return cls(epochs, rows)

    def missing(self, configurations: Sequence[str]) -> list[str]:
        """What is missing to judge these configurations: some of them, or anything that they have in common."""
        if self.curves({}, dict(zip(configurations, configurations, strict=True))).epochs:
            return []
        absent = [name for name in configurations if name not in self.rows]
        return absent or ["a seed and an epoch that all its configurations have"]

    def curves(
        self, groups: Mapping[str, tuple[str, ...]], names: Mapping[str, str], others: Mapping[str, str] | None = None
    ) -> Curves:
        """What configurations have in common, as `Curves` has them; no seeds and epochs where that is nothing."""
        configurations = [*names.values(), *(others or {}).values()]
        runs = [self.epochs.get(name, {}) for name in configurations]
        every = sorted(set().union(*runs))
        seeds = [seed for seed in every if all(seed in run for run in runs)]
        grids = [run[seed] for run in runs for seed in seeds]
        epochs = sorted(frozenset.intersection(*grids)) if grids else []
        notes = []
        if left := [str(seed) for seed in every if seed not in seeds]:
            notes.append(f"left out, as not every configuration has it: seed {', '.join(left)}")
        longest = max((max(grid) for grid in grids), default=0)
        if epochs and longest > epochs[-1]:
            notes.append(f"judged at epoch {epochs[-1]}: not every run goes on to epoch {longest}")
        values = {}
        for name in configurations if epochs else ():
            mine, steps, cells = self.rows[name]
            shared = np.isin(mine, seeds) & np.isin(steps, epochs)
            values[name] = cells[shared].reshape(len(seeds), len(epochs), len(history.METRICS))
        return Curves(names, tuple(seeds), tuple(epochs), values, tuple(notes), groups, others or {})
