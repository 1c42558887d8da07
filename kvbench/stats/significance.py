"""Hypothesis tests on margins paired by seed: one-sided, exact where the seeds allow, and what they could have seen.

Sources: docs/statistics.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaincinv, nctdtr, ndtr, stdtr, stdtrit

from kvbench.stats.intervals import Floats, deviation

ALL_FLIPS = 16  # up to this many seeds every one of the 2**n sign flips is counted
RANDOM_FLIPS = 2**16  # above it, as many random ones, the identity among them: still an exact level
CODED_FLIPS = 62  # up to this many seeds a pattern is a number
POWER = 0.8
QUANTILES = (np.arange(2000) + 0.5) / 2000  # at which the spread's estimate is averaged over
MOST_SEEDS = 1000  # searched when seeds for an effect are counted

SIGN, T_TEST, SIGN_FLIPS, NO_TEST = "sign of one seed, no test", "t", "sign flips", "no test"


@dataclass(frozen=True)
class MeanTest:
    """Two one-sided tests of the mean of margins, with an interval by the same method.

    Args:
        method: `SIGN`, `T_TEST` or `SIGN_FLIPS`.
        above: p-value against "the mean is at most 0".
        below: p-value against "the mean is at least 0".
        low, high: two-sided interval of the mean; infinite where the method gives no bound at its level.
    """

    method: str
    above: float
    below: float
    low: float
    high: float


def mean_test(margins: ArrayLike, finest: float, level: float = 0.95) -> MeanTest:
    """Test the mean of margins against 0 from both sides.

    Sign flips where one of them could reach the ``finest`` p-value that is asked for (2**-n <= finest), else Student's
    t; one margin has a sign but no test, and its p-values are NaN.

    Args:
        margins: (n,) finite, one a seed.
        finest: the smallest level at which the p-value may be used.
        level: coverage of the interval, such as 0.95.
    """
    sample = np.asarray(margins, dtype=np.float64)
    assert sample.ndim == 1
    assert sample.size > 0
    assert np.isfinite(sample).all()
    if sample.size == 1:
        return MeanTest(SIGN, math.nan, math.nan, -math.inf, math.inf)
    return _sign_flips(sample, level) if 2.0**-sample.size <= finest else _t_test(sample, level)


def _t_test(sample: Floats, level: float) -> MeanTest:
    """Student's t with n - 1 degrees of freedom; margins without spread are tested by their signs."""
    freedom = sample.size - 1
    mean, error = float(sample.mean()), deviation(sample) / math.sqrt(sample.size)
    if error == 0:  # a spread of 0 seen is not a spread of 0: what is left is each margin's sign
        signs = without_spread(sample.size)
        return MeanTest(T_TEST, signs if mean > 0 else 1.0, signs if mean < 0 else 1.0, mean, mean)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    above, below = float(stdtr(freedom, -mean / error)), float(stdtr(freedom, mean / error))
    return MeanTest(T_TEST, above, below, mean - half, mean + half)


def _sign_flips(sample: Floats, level: float) -> MeanTest:
    """Fisher's and Pitman's test: under symmetry about 0 every flip of signs is as likely as the one that was seen.

    The interval inverts it: a flip of the set A beats the observed sum at mean m just where A's own mean is at most m,
    so the bounds are order statistics of the subsets' means (Hartigan 1969).
    """
    flips, members = _flips(sample.size)
    sums = flips @ sample
    slack = 1e-9 * float(np.abs(sample).sum())  # ties that rounding would break
    above = float(np.mean(sums >= sample.sum() - slack))
    below = float(np.mean(sums <= sample.sum() + slack))
    means = (sample.sum() - sums)[members > 0] / (2 * members[members > 0])
    rank = math.floor((1 - level) / 2 * len(flips))
    if rank < 1:
        return MeanTest(SIGN_FLIPS, above, below, -math.inf, math.inf)
    ordered = np.partition(means, [rank - 1, len(means) - rank])
    return MeanTest(SIGN_FLIPS, above, below, float(ordered[rank - 1]), float(ordered[-rank]))


def without_spread(count: int) -> float:
    """P-value of ``count`` margins that all have the same sign: the sign test's."""
    return float(2.0**-count)


@functools.cache
def _flips(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(F, count) rows of signs, no row twice, the first one all plus; and (F,) how many are minus."""
    if count <= ALL_FLIPS:
        codes = np.arange(2**count)
    elif count <= CODED_FLIPS:
        others = np.random.default_rng(0).choice(2**count - 1, RANDOM_FLIPS - 1, replace=False)
        codes = np.concatenate([[0], 1 + others])
    else:  # too many for codes of 64 bits, and for a row to come twice
        bits = np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, count))
        bits[0] = 0
        return np.asarray(1.0 - 2.0 * bits), np.asarray(bits.sum(axis=1))
    bits = codes[:, None] >> np.arange(count) & 1
    return np.asarray(1.0 - 2.0 * bits), np.asarray(bits.sum(axis=1))


def holm(p_values: Sequence[float], family_error: float) -> list[float]:
    """The level at which each hypothesis is tested when all of them share ``family_error`` by Holm's procedure.

    The smallest p-value is tested at ``family_error / m``, the next at ``family_error / (m - 1)`` and so on, up to the
    first that is not rejected, whose level all that are left get. NaN (nothing to test) counts as 1.
    """
    clean = [1.0 if math.isnan(p) else p for p in p_values]
    levels = [0.0] * len(clean)
    level, stopped = family_error, False
    for rank, place in enumerate(sorted(range(len(clean)), key=lambda i: clean[i])):
        if not stopped:
            level = family_error / (len(clean) - rank)
            stopped = clean[place] > level
        levels[place] = level
    return levels


def power(effect: float, spread: float, freedom: int, error: float, level: float) -> float:
    """Chance that a one-sided t test at ``level`` sees an ``effect``.

    Args:
        effect: size of the mean, from 0.
        spread: standard deviation of one value.
        freedom: degrees of freedom of the estimate of ``spread``.
        error: standard error of the mean in units of ``spread``, such as ``1 / sqrt(n)``.
        level: one-sided.
    """
    if spread == 0:
        return float(effect > 0)
    missed = float(nctdtr(freedom, effect / (spread * error), stdtrit(freedom, 1 - level)))
    if not math.isnan(missed):
        return 1 - missed
    # Where scipy's is NaN: P(T > t) is the mean of P(Z > t * estimate - effect) over the estimate of the spread.
    estimates = np.sqrt(2 * gammaincinv(freedom / 2, QUANTILES) / freedom)
    return float(ndtr(effect / (spread * error) - stdtrit(freedom, 1 - level) * estimates).mean())


def smallest(spread: float, freedom: int, error: float, level: float) -> float:
    """The effect that is seen with a chance of `POWER`; arguments as in `power`."""
    if spread == 0:
        return 0.0

    def short(effect: float) -> float:
        return power(effect, 1, freedom, error, level) - POWER

    high = 1.0
    while short(high) < 0:
        high *= 2
    return spread * float(brentq(short, 0, high))


def smallest_effect(spread: float, count: int, level: float) -> float:
    """The mean that ``count`` margins with this ``spread`` show with a chance of `POWER`, tested by t at ``level``."""
    assert count > 1
    return smallest(spread, count - 1, 1 / math.sqrt(count), level)


def fewest(enough: Callable[[int], bool]) -> int | None:
    """The fewest seeds that are ``enough``, where more never are too few; None: more than `MOST_SEEDS`."""
    if not enough(MOST_SEEDS):
        return None
    low, high = 0, MOST_SEEDS  # low does not do, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_for(effect: float, spread: float, level: float) -> int | None:
    """How many seeds show an ``effect`` with a chance of `POWER`; None: more than `MOST_SEEDS`, or no effect at all."""
    if effect <= 0:
        return None
    return fewest(lambda n: n > 1 and power(effect, spread, n - 1, n**-0.5, level) >= POWER)


def new_seeds_for(effect: float, spread: float, recorded: int, level: float) -> int | None:
    """How many new seeds, shifted by ``effect``, leave a prediction interval of ``recorded`` ones.

    With a chance of `POWER`; ``level`` is one-sided. None: more than `MOST_SEEDS`, as the recorded seeds are too few.
    """
    if effect <= 0:
        return None
    return fewest(lambda n: power(effect, spread, recorded - 1, math.sqrt(1 / recorded + 1 / n), level) >= POWER)
