"""Gates: numbers of a run that must stay where the reference has them, and what the reference allows each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvbench.results import history
from kvbench.stats.intervals import Floats, deviation, log_area, log_losses, prediction_interval, shift_interval

CLEARLY = 0.5  # as wide as new seeds' interval must the same seeds' be at most to be used
LOSS_FLOOR = 1e-3  # relative: what another platform's rounding may move a loss, however little seeds spread
SHARE_FLOOR = 0.002  # absolute, of accuracies: a few images of a validation set

WITHIN, MOVED, NO_NUMBER, NOT_JUDGED, NOT_COMPARED = "within", "MOVED", "NO NUMBER", "not judged", "not compared"
HEADERS = ("", "gate", "obtained", "expected", "difference", "allowed", "against", "in SDs of a seed", "verdict")


@dataclass(frozen=True)
class Gate:
    """A number of a run that must stay where the reference has it: of a metric's whole curve or its last epoch."""

    name: str
    metric: str
    whole: bool = False
    optional: bool = False  # compared only if both sides measured it

    @property
    def loss(self) -> bool:
        """Whether its values are log losses."""
        return self.metric in history.LOSSES

    def values(self, epochs: Sequence[int], curves: Floats) -> Floats:
        """(S,) of curves (S, E): log losses, so that differences are ratios, or shares as they are."""
        if self.whole:
            return np.array([log_area(epochs, curve) for curve in curves])
        return log_losses(curves[:, -1]) if self.loss else curves[:, -1]


GATES = (
    Gate("train_loss, whole curve", "train_loss", whole=True),
    Gate("train_loss, last epoch", "train_loss"),
    Gate("val_loss, last epoch", "val_loss", optional=True),
    Gate("val_accuracy, last epoch", "val_accuracy"),
    Gate("agreement, last epoch", "agreement", optional=True),
)


@dataclass(frozen=True)
class Sample:
    """Curves (S, E) of one metric, one row a seed; ``replicates`` (M, E) are perturbed runs, ``originals`` theirs.

    ``same`` are the reference's own curves of the fresh seeds: with them, what is compared is a seed with itself.
    """

    fresh: Floats
    reference: Floats
    same: Floats | None = None
    replicates: Floats | None = None
    originals: Floats | None = None


@dataclass(frozen=True)
class Outcome:
    """A gate's numbers: means over seeds and what the reference allows, losses in nat (geometric mean over seeds).

    ``deviations`` is the difference in standard deviations between the reference's seeds; ``excess`` the difference
    (log ratio of losses) over what was allowed: above 1 the gate fails. ``paired``: each seed was compared with itself.
    """

    gate: Gate
    verdict: str
    obtained: float = math.nan
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan
    deviations: float = math.nan
    excess: float = math.nan
    paired: bool = False

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return self.verdict in {MOVED, NO_NUMBER}

    def row(self) -> list[str]:
        """Cells under `HEADERS`."""
        text = f"{self.obtained - self.expected:+.4f}"
        if self.gate.loss:  # never 0: `log_losses` has a floor
            text = f"{(self.obtained / self.expected - 1) * 100:+.2f}%"
        allowed = "unknown" if not math.isfinite(self.high - self.low) else f"{number(self.low)} to {number(self.high)}"
        mark = ">>" if self.failed else ""
        against = "same seeds" if self.paired else "all seeds"
        numbers = [number(self.obtained), number(self.expected), text, allowed, against]
        return [mark, self.gate.name, *numbers, f"{self.deviations:+.2f}", self.verdict]


def judge(gate: Gate, epochs: Sequence[int], sample: Sample, level: float) -> Outcome:
    """Judge one gate.

    The fresh mean must lie in the `prediction_interval` of the reference seeds; one reference seed tells no spread, and
    nothing is judged. With ``sample.same`` the mean difference of each fresh seed from its own reference run must be no
    more than other rounding moves it, the `shift_interval` of the replicates, where that is at most `CLEARLY` as wide:
    the choice reads no fresh number, and replicates that are this close by chance are rare. Either is
    widened by the floor.
    """
    if gate.optional and (np.isnan(sample.fresh).all() or np.isnan(sample.reference).all()):
        return Outcome(gate, NOT_COMPARED)
    mine, theirs = gate.values(epochs, sample.fresh), gate.values(epochs, sample.reference)
    floor = LOSS_FLOOR if gate.loss else SHARE_FLOOR
    judged = len(theirs) > 1
    expected = float(theirs.mean())
    low, high = prediction_interval(theirs, len(mine), level)
    paired = False
    if sample.same is not None:
        assert sample.replicates is not None
        assert sample.originals is not None
        moved = gate.values(epochs, sample.replicates) - gate.values(epochs, sample.originals)
        down, up = shift_interval(moved, len(mine), level)
        paired = up - down < CLEARLY * (high - low)
        if paired:
            expected = float(gate.values(epochs, sample.same).mean())
            low, high = expected + down, expected + up
    numbers = np.array([mine.mean(), expected, low - floor, high + floor])
    if not np.isfinite(numbers[:2]).all():
        verdict = NO_NUMBER
    elif not judged:
        verdict = NOT_JUDGED
    else:
        verdict = WITHIN if numbers[2] <= numbers[0] <= numbers[3] else MOVED
    spread = deviation(theirs) if judged else math.nan
    difference, half = float(numbers[0] - expected), float(numbers[3] - numbers[2]) / 2
    deviations = difference / spread if spread else math.nan
    shown = np.exp(np.clip(numbers, -700, 700)) if gate.loss else numbers  # exp overflows above 709
    if not judged:
        shown[2:] = math.nan
    obtained, expected, low, high = (float(value) for value in shown)
    return Outcome(gate, verdict, obtained, expected, low, high, deviations, abs(difference) / half, paired)


def number(value: float) -> str:
    """A number for the reader."""
    return "-" if math.isnan(value) else f"{value:.4g}"
