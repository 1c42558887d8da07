"""Intervals and tests on arrays, nothing else."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

FLOOR = 1e-12  # nat; below it a loss is rounding, and its logarithm noise

Floats = NDArray[np.float64]


def log_losses(losses: ArrayLike) -> Floats:
    """Natural logarithm of losses (any shape, nat), each taken as at least `FLOOR`; NaN stays NaN."""
    return np.asarray(np.log(np.maximum(np.asarray(losses, dtype=np.float64), FLOOR)))


def exact_mean(values: ArrayLike) -> float:
    """Mean of (n,) values, rounded once: the same in any order, without overflow up to 1024 values; NaN if one is.

    Example:
        >>> exact_mean([1e308, 1e308, -1e308, -1e308, 5.0])
        1.0
    """
    return fmean(np.asarray(values, dtype=np.float64) / 1024) * 1024


def time_to_target(times: ArrayLike, losses: ArrayLike, target: float) -> float:
    """When a loss curve first is at or below a target, with the log loss taken as linear between its points.

    Args:
        times: (E,) increasing epochs, seconds or anything else that grows along the curve.
        losses: (E,) loss at each of them.
        target: loss to reach.

    Returns:
        The time of the first crossing; ``times[0]`` if the first loss is there already; `math.inf` if none is;
        NaN if a loss or the target is NaN.
    """
    at = np.asarray(times, dtype=np.float64)
    curve = np.asarray(losses, dtype=np.float64)
    assert at.shape == curve.shape
    assert at.ndim == 1
    assert at.size > 0
    if np.isnan(curve).any() or math.isnan(target):
        return math.nan
    reached = np.flatnonzero(curve <= target)
    if not reached.size:
        return math.inf
    after = int(reached[0])
    if after == 0:
        return float(at[0])
    high, low = log_losses(curve[after - 1 : after + 1])
    if high == low:  # both below FLOOR
        return float(at[after])
    share = (high - float(log_losses(target))) / (high - low)
    return float(at[after - 1] + share * (at[after] - at[after - 1]))


def time_to_share(times: ArrayLike, losses: ArrayLike, share: float) -> float:
    """When a loss curve first has a share of its own improvement in log loss, from its first value to its smallest.

    Args: ``times`` and ``losses`` as in `time_to_target`, ``share`` in [0, 1].

    Returns:
        The time, interpolated likewise; ``times[0]`` for a curve that never improves; NaN if a loss is NaN.
    """
    logs = log_losses(losses)
    if np.isnan(logs).any():
        return math.nan
    # lifted a little, so that the rounding of log and exp cannot put the target below a curve's own minimum
    target = math.exp(float(logs[0] - share * (logs[0] - logs.min()))) * (1 + 1e-14)
    return time_to_target(times, losses, max(target, float(np.min(losses))))


def log_area(times: ArrayLike, losses: ArrayLike) -> float:
    """Mean log loss over a curve's range, by trapezoids; one point is its own mean. NaN if a loss is NaN.

    Args: ``times`` (E,) increasing, ``losses`` (E,) in nat.
    """
    at = np.asarray(times, dtype=np.float64)
    logs = log_losses(losses)
    if at.size == 1:
        return float(logs[0])
    return float(np.sum(np.diff(at) * (logs[1:] + logs[:-1]) / 2) / (at[-1] - at[0]))


def shift_interval(replicas: ArrayLike, fresh_count: int, level: float = 0.95) -> tuple[float, float]:
    """Where the mean of ``fresh_count`` new differences is expected, given differences whose mean is known to be 0.

    Student's t with m degrees of freedom about 0, half width ``t * sqrt(mean of squares / fresh_count)``.

    Args: ``replicas`` (m,) differences of the same kind; ``fresh_count`` how many are averaged; ``level`` two-sided.

    Returns:
        ``(low, high)``: of no width if all are 0, NaN if one is NaN.
    """
    sample = np.asarray(replicas, dtype=np.float64)
    assert sample.size > 0
    assert fresh_count > 0
    half = student(sample.size, level) * math.sqrt(float(np.mean(sample**2)) / fresh_count)
    return -half, half


def prediction_interval(reference: ArrayLike, fresh_count: int, level: float = 0.95) -> tuple[float, float]:
    """Where the mean of ``fresh_count`` new values is expected, given ``reference`` values of the same kind.

    Student's t with k - 1 degrees of freedom, half width ``t * s * sqrt(1/k + 1/fresh_count)``.

    Args:
        reference: (k,) at least one value.
        fresh_count: how many new values are averaged.
        level: two-sided coverage, such as 0.95.

    Returns:
        ``(low, high)``: infinite for k = 1, of no width if all are equal, NaN if one is NaN.
    """
    sample = np.asarray(reference, dtype=np.float64)
    assert sample.size > 0
    assert fresh_count > 0
    mean = float(sample.mean())
    if math.isnan(mean):
        return math.nan, math.nan
    if sample.size == 1:
        return -math.inf, math.inf
    half = student(sample.size - 1, level) * deviation(sample) * math.sqrt(1 / sample.size + 1 / fresh_count)
    return mean - half, mean + half


def standardized_sum(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats, float]:
    """Sum up the columns of two samples, each column divided by its standard deviation over both samples together.

    As the scales read all rows alike, whichever sample they are of, a t test of the sums is exact for normal rows,
    whatever the correlations of the columns (Läuter, *Biometrics* 1996; Läuter, Glimm & Kropf, *Annals of Statistics*
    1998).

    Args: ``first`` (n, p) and ``second`` (m, p), finite, rows independent.

    Returns:
        The mean over the columns for each row, (n,) and (m,), and the mean of what columns are multiplied by: how far
        the sum moves where each column moves by 1. Columns without spread count as 0.
    """
    both = np.concatenate([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    assert both.ndim == 2
    spread = both.std(axis=0, ddof=1)
    weights = np.divide(1, spread, out=np.zeros_like(spread), where=np.ptp(both, axis=0) > 0) / both.shape[1]
    sums = both @ weights
    return sums[: len(np.asarray(first))], sums[len(np.asarray(first)) :], float(weights.sum())


def upper_bound(hits: int, trials: int, level: float = 0.95) -> float:
    """Upper bound of a rate of which ``hits`` were seen in independent ``trials`` (Clopper and Pearson).

    Example:
        >>> round(upper_bound(0, 300), 4)
        0.0099
    """
    return 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, level))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation of two (n,) arrays, ties by mean rank; NaN if one is constant or holds a NaN."""
    one, two = pd.Series(np.asarray(first, dtype=np.float64)), pd.Series(np.asarray(second, dtype=np.float64))
    if one.isna().any() or two.isna().any() or one.nunique() < 2 or two.nunique() < 2:
        return math.nan
    return float(one.rank().corr(two.rank()))


def student(freedom: int, level: float) -> float:
    """What the absolute value of Student's t with so many degrees of freedom stays below with the chance ``level``.

    Example:
        >>> round(student(9, 0.95), 3)
        2.262
    """
    assert 0 < level < 1
    return float(stdtrit(freedom, (1 + level) / 2))


def deviation(sample: Floats) -> float:
    """Sample standard deviation (ddof 1); exactly 0 for equal values, where the mean's rounding would leave a rest."""
    return 0.0 if np.ptp(sample) == 0 else float(sample.std(ddof=1))
