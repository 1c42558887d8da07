"""Tolerances: numbers of a run that must stay where the reference has them, and how far each may be from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvbench.reference.status import Status
from kvbench.results import history
from kvbench.stats.intervals import Floats, deviation, log_area, log_losses, prediction_interval, shift_interval
from kvbench.stats.significance import mean_test
from kvbench.utils.text import NOT_MEASURED, number

CLEARLY = 0.5  # as wide as new seeds' interval must the same seeds' be at most to be used
LOSS_FLOOR = 1e-3  # relative: what another platform's rounding may move a loss, however little seeds spread
SHARE_FLOOR = 0.002  # absolute, of accuracies: a few images of a validation set
DIGITS = 12  # of differences: as many images more have no spread, whatever the last bits of their shares

HEADERS = ("", "tolerance", "obtained", "expected", "difference", "allowed", "against", "in SDs of a seed", "status")


@dataclass(frozen=True)
class Tolerance:
    """A number of a run that must stay where the reference has it: of a metric's whole curve or its last epoch."""

    name: str
    metric: str
    whole_curve: bool = False
    optional: bool = False  # compared only if both sides measured it

    @property
    def loss(self) -> bool:
        """Whether its values are log losses."""
        return self.metric in history.LOSSES

    @property
    def floor(self) -> float:
        """What is allowed however little seeds spread, in the unit of its values."""
        return LOSS_FLOOR if self.loss else SHARE_FLOOR

    def values(self, epochs: Sequence[int], curves: Floats) -> Floats:
        """(S,) of curves (S, E): log losses, so that differences are ratios, or shares as they are."""
        if self.whole_curve:
            return np.array([log_area(epochs, curve) for curve in curves])
        return log_losses(curves[:, -1]) if self.loss else curves[:, -1]


TOLERANCES = (
    Tolerance("train_loss, whole curve", "train_loss", whole_curve=True),
    Tolerance("train_loss, last epoch", "train_loss"),
    Tolerance("val_loss, last epoch", "val_loss", optional=True),
    Tolerance("val_accuracy, last epoch", "val_accuracy"),
    Tolerance("agreement, last epoch", "agreement", optional=True),
)


@dataclass(frozen=True)
class Sample:
    """Curves (S, E) of one metric, one row a seed; ``replicates`` (M, E) are perturbed runs, ``originals`` theirs.

    ``same`` are the reference's own curves of the fresh seeds: with them, what is compared is a seed with itself. Where
    there are no replicates, the spread of the seeds' own differences says what is allowed.
    """

    fresh: Floats
    reference: Floats
    same: Floats | None = None
    replicates: Floats | None = None
    originals: Floats | None = None


@dataclass(frozen=True)
class Deviation:
    """A tolerance's numbers: means over seeds and what the reference allows, losses in nat (geometric mean over seeds).

    ``in_sds`` is the difference in standard deviations between the reference's seeds; ``excess`` the difference (log
    ratio of losses) over what was allowed: above 1 the run fails. ``paired``: each seed was compared with itself. NaN
    stands where there is no such number.
    """

    tolerance: Tolerance
    status: Status
    obtained: float = math.nan
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan
    in_sds: float = math.nan
    excess: float = math.nan
    paired: bool = False

    def row(self) -> list[str]:
        """Cells under `HEADERS`."""
        if self.status == Status.NOT_MEASURED:
            return ["", self.tolerance.name, NOT_MEASURED, *["-"] * 5, self.status]
        difference = number(self.obtained - self.expected, "+.4f", missing="-")
        if self.tolerance.loss:  # never 0: `log_losses` has a floor
            difference = number((self.obtained / self.expected - 1) * 100, "+.2f", missing="-")
            difference += "%" if difference != "-" else ""
        obtained, expected = (number(side, missing="no number") for side in (self.obtained, self.expected))
        allowed = f"{number(self.low)} to {number(self.high)}" if math.isfinite(self.high - self.low) else "unknown"
        against = "same seeds" if self.paired else "all seeds"
        in_sds = number(self.in_sds, "+.2f", missing="-")
        mark = ">>" if self.status.failed else ""
        return [mark, self.tolerance.name, obtained, expected, difference, allowed, against, in_sds, self.status]


def measure(tolerance: Tolerance, epochs: Sequence[int], sample: Sample, level: float) -> Deviation:
    """Hold one number against the reference.

    The fresh mean must lie in the `prediction_interval` of the reference seeds; one reference seed tells no spread, and
    nothing is judged. With ``sample.same`` the mean difference of each fresh seed from its own reference run must be no
    more than other rounding moves it, the `shift_interval` of the replicates, where that is at most `CLEARLY` as wide:
    the choice reads no fresh number, and replicates that are this close by chance are rare. Without replicates it is
    the mean difference itself that is tested, by `mean_test`. Each is widened by the floor, and what gives no bound is
    not judged.

    Args:
        tolerance: which number.
        epochs: the E epochs of the curves.
        sample: the fresh and the recorded curves.
        level: two-sided coverage of the interval.
    """
    if tolerance.optional and (np.isnan(sample.fresh).all() or np.isnan(sample.reference).all()):
        return Deviation(tolerance, Status.NOT_MEASURED)
    mine, theirs = tolerance.values(epochs, sample.fresh), tolerance.values(epochs, sample.reference)
    expected = float(theirs.mean())
    low, high = prediction_interval(theirs, len(mine), level)
    paired = False
    if sample.same is not None:
        same = tolerance.values(epochs, sample.same)
        if sample.replicates is None:
            shift = mine - same if tolerance.loss else (mine - same).round(DIGITS)
            down, up = _own_shift(shift, tolerance.floor, level)
            paired = True
        else:
            assert sample.originals is not None
            shifts = tolerance.values(epochs, sample.replicates) - tolerance.values(epochs, sample.originals)
            down, up = shift_interval(shifts, len(mine), level)
            paired = up - down < CLEARLY * (high - low)
        if paired:
            expected = float(same.mean())
            low, high = expected + down, expected + up
    obtained, low, high = float(mine.mean()), low - tolerance.floor, high + tolerance.floor
    judged = math.isfinite(high - low)
    if not math.isfinite(obtained) or not math.isfinite(expected):
        status = Status.NO_NUMBER
    elif not judged:
        status = Status.NOT_JUDGED
    else:
        status = Status.WITHIN if low <= obtained <= high else Status.DRIFTED
    spread = deviation(theirs) if len(theirs) > 1 else 0.0
    in_sds = (obtained - expected) / spread if spread else math.nan
    excess = abs(obtained - expected) / ((high - low) / 2)
    shown = np.array([obtained, expected, *((low, high) if judged else (math.nan, math.nan))])
    shown = np.exp(np.clip(shown, -700, 700)) if tolerance.loss else shown  # exp overflows above 709
    obtained, expected, low, high = map(float, shown)
    return Deviation(tolerance, status, obtained, expected, low, high, in_sds, excess, paired)


def _own_shift(differences: Floats, floor: float, level: float) -> tuple[float, float]:
    """How far the mean of (S,) differences may be from 0, by their own spread; infinite where they give no bound."""
    if not np.isfinite(differences).all():
        return math.nan, math.nan
    finest = (1 - level) / 2
    test, mean = mean_test(differences, finest, level), float(differences.mean())
    if abs(mean) > 0.99 * floor and not deviation(differences) and min(test.above, test.below) > finest:
        return -math.inf, math.inf  # no spread seen is not no spread
    return mean - test.high, mean - test.low
