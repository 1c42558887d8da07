"""Timing: seconds per epoch as ratios between configurations of one run, which a change of machine leaves alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvbench.reference.status import Status
from kvbench.results import history
from kvbench.stats.intervals import Floats, prediction_interval

FAMILY_ERROR = 0.01  # over all configurations of a run
FLOOR = math.log(1.25)  # a ratio may move by a quarter, however little seeds spread: machines are shared


@dataclass(frozen=True)
class Timing:
    """A configuration's seconds per epoch over the geometric mean of all configurations' of the same run.

    Args:
        configuration: its name.
        obtained: the fresh run's ratio, geometric mean over seeds.
        expected: the reference's.
        low, high: what the reference allows; NaN where it tells no spread.
        status: within, slower, faster, or not judged where the reference tells no spread.
    """

    configuration: str
    obtained: float
    expected: float
    low: float = math.nan
    high: float = math.nan
    status: Status = Status.NOT_JUDGED


@np.errstate(all="ignore")
def timings(fresh: pd.DataFrame, recorded: pd.DataFrame) -> list[Timing]:
    """Compare the timings of the configurations that both frames timed; none where there are fewer than two.

    A seed's seconds are the median over its epochs, as one that stalled says nothing; the mean over the fresh seeds of
    their log ratios must lie in Student's prediction interval of the reference seeds, widened by `FLOOR`.
    """
    mine, theirs = _logs(fresh), _logs(recorded)
    names = [name for name in mine if name in theirs]
    if len(names) < 2:
        return []
    # of one run: the mean over the configurations of their means over seeds, whatever their order
    common, recorded_common = (math.fsum(side[name].mean() for name in names) / len(names) for side in (mine, theirs))
    level = 1 - FAMILY_ERROR / len(names)
    found = []
    for name in names:
        ratios = theirs[name] - recorded_common
        obtained, expected = float(mine[name].mean() - common), float(ratios.mean())
        if len(ratios) < 2:
            found.append(Timing(name, math.exp(obtained), math.exp(expected)))
            continue
        low, high = prediction_interval(ratios, len(mine[name]), level)
        low, high = low - FLOOR, high + FLOOR
        status = Status.SLOWER if obtained > high else Status.FASTER if obtained < low else Status.WITHIN
        found.append(Timing(name, math.exp(obtained), math.exp(expected), math.exp(low), math.exp(high), status))
    return found


@dataclass(frozen=True)
class Ratio:
    """A configuration's seconds per epoch in two runs, geometric means over seeds, and how many times as long it takes.

    ``low`` and ``high`` are the ratio's 95% interval by the spread between the earlier run's seeds; NaN without one.
    """

    configuration: str
    before: float
    after: float
    ratio: float
    low: float = math.nan
    high: float = math.nan


@np.errstate(all="ignore")
def ratios(fresh: pd.DataFrame, earlier: pd.DataFrame) -> list[Ratio]:
    """The seconds of each configuration that both frames timed, as ratios between the runs.

    They say something only of runs on one machine that had nothing else to do.
    """
    mine, theirs = _logs(fresh), _logs(earlier)
    found = []
    for name in [name for name in theirs if name in mine]:
        before, after = float(theirs[name].mean()), float(mine[name].mean())
        # equal runs fall as far apart as the interval is wide
        low, high = (after - end for end in prediction_interval(theirs[name], len(mine[name]))[::-1])
        ends = (math.exp(low), math.exp(high)) if math.isfinite(low) else (math.nan, math.nan)
        found.append(Ratio(name, math.exp(before), math.exp(after), math.exp(after - before), *ends))
    return found


def _logs(histories: pd.DataFrame) -> dict[str, Floats]:
    """(S,) log of the median seconds of an epoch, of each configuration that was timed, at its timed seeds."""
    timed = {}
    for name in history.configurations(histories):
        rows = history.of(histories, name)
        rows = rows[~np.isnan(rows["seconds"].to_numpy())]
        cells, seeds = rows["seconds"].to_numpy(), rows["seed"].to_numpy()
        medians = np.array([np.median(cells[seeds == seed]) for seed in np.unique(seeds)])
        if len(medians) and ((medians > 0) & np.isfinite(medians)).all():
            timed[name] = np.log(medians)
    return timed
