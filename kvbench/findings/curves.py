"""Curves: what a finding reads, as arrays at the seeds and epochs that all its configurations have; claims of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbench.findings.clauses import DIFFERENCE, RATIO, Claim
from kvbench.results import history
from kvbench.stats.intervals import Floats, log_losses
from kvbench.utils.text import number

if TYPE_CHECKING:
    import pandas as pd

LOSS, ACCURACY = "train_loss", "val_accuracy"  # what claims are about
WORDS = {LOSS: "training loss", ACCURACY: "accuracy"}
BETTER = {LOSS: "below", ACCURACY: "above"}


@dataclass(frozen=True)
class Curves:
    """Curves of the configurations that a judgement needs, at the S seeds and E epochs that all of them have.

    ``prefix`` stands before a model's name in its configuration's. ``notes`` say what was left out.
    """

    prefix: str
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    values: Mapping[str, Floats]  # configuration -> (S, E, METRICS)
    notes: tuple[str, ...] = ()

    def name(self, model: str) -> str:
        """The configuration of a model; anything else as it is."""
        return self.prefix + model if self.prefix + model in self.values else model

    def curve(self, model: str, metric: str = LOSS) -> Floats:
        """(S, E) values of a model; NaN where it was not measured or is not finite."""
        return self.values[self.prefix + model][:, :, history.METRICS.index(metric)]

    def last(self, model: str, metric: str) -> Floats:
        """(S,) values at the last epoch."""
        return self.curve(model, metric)[:, -1]

    def lead(self, metric: str, one: str, other: str) -> Floats:
        """(S,) by how much ``one`` is ahead of ``other`` at the last epoch: log ratio of losses, else difference."""
        mine, theirs = self.last(one, metric), self.last(other, metric)
        return log_losses(theirs) - log_losses(mine) if metric == LOSS else mine - theirs

    def means(self, values: Mapping[str, Floats], spec: str = ".3f") -> str:
        """What the models have, mean over the seeds, in words."""
        return ", ".join(
            f"{number(float(value.mean()), spec, missing='no number')} ({self.name(model)})"
            for model, value in values.items()
        )

    def claim(
        self, title: str, sentence: str, scale: str, margins: Mapping[str, Floats], numbers: str, *,
        tie_holds: bool = False, gating: bool = True, contradicted: bool = False, note: str = "",
    ) -> Claim:  # fmt: skip
        """Make a claim of margins (S,) against each rival."""
        rivals = tuple(map(self.name, margins))
        matrix = np.stack(list(margins.values()), axis=1)
        return Claim(title, sentence, scale, self.seeds, matrix, rivals, numbers, tie_holds, gating, contradicted, note)

    def last_epoch(
        self, metric: str, one: str, rivals: Iterable[str] | Mapping[str, Floats], says: str, *,
        title: str = "", shown: Sequence[str] = (), ties: bool = False,
    ) -> Claim:  # fmt: skip
        """Claim something of the last epoch's `LOSS` or `ACCURACY` of a model.

        Args:
            metric: which of the two.
            one: the model.
            rivals: whom it must be ahead of, or margins (S,) against each.
            says: the rest of the sentence, after ``Model1's accuracy``.
            title: the claim's id, without the metric; the model's name if empty.
            shown: the models whose means are shown with it; the rivals if empty.
            ties: whether no difference supports the claim.

        Example:
            >>> curves.last_epoch(ACCURACY, "Model4", ["Model6"], "is above Model6's").id  # doctest: +SKIP
            'Model4-accuracy'
        """
        margins = rivals if isinstance(rivals, Mapping) else {rival: self.lead(metric, one, rival) for rival in rivals}
        numbers = self.means({model: self.last(model, metric) for model in (one, *(shown or margins))})
        scale, kind = (RATIO, "loss") if metric == LOSS else (DIFFERENCE, "accuracy")
        sentence = f"{self.name(one)}'s {WORDS[metric]} {says}"
        return self.claim(f"{title or one}-{kind}", sentence, scale, margins, numbers, tie_holds=ties)

    def no_worse(self, one: str, other: str, loss: float, accuracy: float, title: str) -> list[Claim]:
        """Claim that the last loss is at most ``loss`` times, the accuracy at most ``accuracy`` below, another's."""
        limits = ((LOSS, float(np.log(loss)), f"{loss:g}x"), (ACCURACY, accuracy, f"{accuracy:g} below"))
        return [
            self.last_epoch(metric, one, {other: self.lead(metric, one, other) + limit},
                            f"is at most {words} {self.name(other)}'s", title=title, ties=True)
            for metric, limit, words in limits
        ]  # fmt: skip


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
        if self.curves(configurations, "").epochs:
            return []
        absent = [name for name in configurations if name not in self.rows]
        return absent or ["a seed and an epoch that all its configurations have"]

    def curves(self, configurations: Sequence[str], prefix: str) -> Curves:
        """What these configurations have in common; no seeds and epochs where that is nothing."""
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
        return Curves(prefix, tuple(seeds), tuple(epochs), values, tuple(notes))
