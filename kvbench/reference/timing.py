"""Pace: seconds per epoch as ratios between configurations of one run, which a change of machine leaves alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvbench.results import history
from kvbench.stats.intervals import Floats, prediction_interval

FAMILY_ERROR = 0.01  # over all configurations of a run
FLOOR = math.log(1.25)  # a ratio may move by a quarter, however little seeds spread: machines are shared
AS_RECORDED, SLOWER, FASTER, NOT_JUDGED = "as recorded", "SLOWER", "FASTER", "not judged"


@dataclass(frozen=True)
class Timing:
    """A configuration's seconds per epoch over the geometric mean of all configurations' of the same run.

    Args:
        configuration: its name.
        obtained: the fresh run's ratio, geometric mean over seeds.
        expected: the reference's; NaN where it has none.
        low, high: what the reference allows.
        verdict: ``as recorded``, ``SLOWER``, ``FASTER``, or ``not judged`` where the reference tells no spread.
    """

    configuration: str
    obtained: float
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan
    verdict: str = NOT_JUDGED


def timings(fresh: pd.DataFrame, recorded: pd.DataFrame) -> list[Timing]:
    """Compare the paces of the configurations that both frames timed; none where there are fewer than two.

    A seed's seconds are the median over its epochs, as one that stalled says nothing; the mean over the fresh seeds of
    their log ratios must lie in Student's prediction interval of the reference seeds, widened by `FLOOR`.
    """
    names = [n for n in history.configurations(fresh) if n in history.configurations(recorded)]
    mine, theirs = _logs(fresh, names), _logs(recorded, names)
    names = [name for name in names if name in mine and name in theirs]
    if len(names) < 2:
        return []
    mine, theirs = _relative(mine, names), _relative(theirs, names)
    level = 1 - FAMILY_ERROR / len(names)
    made = []
    for name in names:
        obtained, expected = float(mine[name].mean()), float(theirs[name].mean())
        if len(theirs[name]) < 2:
            made.append(Timing(name, math.exp(obtained), math.exp(expected)))
            continue
        low, high = prediction_interval(theirs[name], len(mine[name]), level)
        low, high = low - FLOOR, high + FLOOR
        verdict = SLOWER if obtained > high else FASTER if obtained < low else AS_RECORDED
        made.append(Timing(name, math.exp(obtained), math.exp(expected), math.exp(low), math.exp(high), verdict))
    return made


def _logs(histories: pd.DataFrame, names: list[str]) -> dict[str, Floats]:
    """(S,) log of the median seconds of an epoch, of each configuration at the seeds that were timed."""
    timed = {}
    for name in names:
        rows = histories[histories["configuration"] == name]
        medians = rows.groupby("seed")["seconds"].median().dropna().to_numpy(dtype=np.float64)
        if len(medians) and (medians > 0).all():
            timed[name] = np.log(medians)
    return timed


def _relative(logs: dict[str, Floats], names: list[str]) -> dict[str, Floats]:
    """Less the mean over the configurations of their means over seeds."""
    common = float(np.mean([logs[name].mean() for name in names]))
    return {name: logs[name] - common for name in names}
