from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from kvbench.stats.significance import RANDOM_FLIPS, SIGN, SIGN_FLIPS, T_TEST, MeanTest, holm, mean_test

ALWAYS_FLIPS, NEVER_FLIPS = 1.0, 0.0  # as the finest level
AN_EXAMPLE = (0.3, -0.1, 0.25, 0.8, -0.2, 0.05, 0.4, 0.11)

Test = Callable[..., MeanTest]


def flips(margins: ArrayLike, level: float = 0.95) -> MeanTest:
    tested = mean_test(margins, ALWAYS_FLIPS, level)
    assert tested.method == SIGN_FLIPS
    return tested


def student(margins: ArrayLike, level: float = 0.95) -> MeanTest:
    tested = mean_test(margins, NEVER_FLIPS, level)
    assert tested.method == T_TEST
    return tested


def brute_force(margins: Sequence[float]) -> tuple[float, float]:
    """Shares of all flips of signs whose sum is at least, and at most, the one that was seen."""
    every = itertools.product((1, -1), repeat=len(margins))
    sums = [sum(sign * margin for sign, margin in zip(signs, margins, strict=True)) for signs in every]
    seen = sum(margins)
    return float(np.mean([s >= seen - 1e-12 for s in sums])), float(np.mean([s <= seen + 1e-12 for s in sums]))


# Sign flips


@pytest.mark.parametrize(
    "margins",
    [
        AN_EXAMPLE,
        AN_EXAMPLE[:2],
        AN_EXAMPLE[:3],
        (1.0, 1.0, -1.0, 1.0, 1.0),  # ties between flips
        (1.0, 2.0, 3.0, -6.0),
        (0.0, 0.0, 0.4, 0.1),  # a margin of 0 has no sign
        (0.0, 0.0, 0.0),
        (0.7, 0.7, 0.7, 0.7),
        (-1e3, 1e-3, 2e-3, 3e-3),
    ],
)
def test_sign_flips_are_those_of_brute_force_and_of_scipy(margins: tuple[float, ...]) -> None:
    tested = flips(margins)
    assert (tested.above, tested.below) == pytest.approx(brute_force(margins), abs=1e-15)
    sides: dict[Literal["greater", "less"], float] = {"greater": tested.above, "less": tested.below}
    for side, p in sides.items():
        theirs = stats.permutation_test(
            (margins,), np.mean, permutation_type="samples", alternative=side, n_resamples=2 ** len(margins)
        )
        assert p == pytest.approx(theirs.pvalue, abs=1e-15)


def test_sign_flips_take_for_ties_what_rounding_tells_apart() -> None:
    assert sum((0.1, 0.2, 0.3, -0.6)) != 0
    rounded, exact = flips((0.1, 0.2, 0.3, -0.6)), flips((1.0, 2.0, 3.0, -6.0))
    assert (rounded.above, rounded.below) == (exact.above, exact.below)


def test_random_flips_of_many_seeds_are_close_to_all_of_them() -> None:
    draw = np.random.default_rng(3)
    for shift in (-1, 0, 1, 2):
        margins = draw.integers(-6, 7, 20) + shift
        # the sum's distribution, exactly: whole numbers, each plus or minus, one after another
        exact = np.ones(1)
        for size in np.abs(margins):
            step = np.zeros(2 * size + 1)
            step[0] += 0.5
            step[-1] += 0.5  # the same place where the margin is 0
            exact = np.convolve(exact, step)
        sums = np.arange(len(exact)) - np.abs(margins).sum()
        for p, side in ((flips(margins).above, sums >= margins.sum()), (flips(margins).below, sums <= margins.sum())):
            truth = exact[side].sum()
            assert p == pytest.approx(truth, abs=4 * math.sqrt(truth * (1 - truth) / RANDOM_FLIPS) + 1 / RANDOM_FLIPS)


def test_random_flips_count_the_one_that_was_seen_so_that_p_is_never_0() -> None:
    assert 1 / RANDOM_FLIPS <= flips(np.ones(30)).above < 1e-4
    assert flips(np.ones(30)) == flips(np.ones(30))  # the same flips every time


@pytest.mark.parametrize(("count", "level"), [(5, 0.8), (6, 0.9), (8, 0.95), (11, 0.95)])
def test_the_interval_of_sign_flips_is_where_the_test_changes_its_mind(count: int, level: float) -> None:
    margins = np.random.default_rng(count).normal(0.3, 1, count)
    tested = flips(margins, level)
    half = (1 - level) / 2
    assert flips(margins - tested.low + 1e-6).above <= half < flips(margins - tested.low - 1e-6).above
    assert flips(margins - tested.high - 1e-6).below <= half < flips(margins - tested.high + 1e-6).below
    assert margins.min() <= tested.low < margins.mean() < tested.high <= margins.max()


def test_the_widest_interval_of_sign_flips_is_the_range_and_beyond_it_there_is_none() -> None:
    margins = AN_EXAMPLE[:5]
    widest = flips(margins, 1 - 2 / 32)  # one flip of 32 on either side
    assert (widest.low, widest.high) == pytest.approx((min(margins), max(margins)))
    beyond = flips(margins, 1 - 1.99 / 32)
    assert (beyond.low, beyond.high) == (-math.inf, math.inf)


# Student's t


@pytest.mark.parametrize("margins", [AN_EXAMPLE, AN_EXAMPLE[:2], (-0.3, -0.31, -0.305), (5.0, 5.001, 4.999)])
def test_t_is_scipys(margins: tuple[float, ...]) -> None:
    tested = student(margins, 0.99)
    assert tested.above == pytest.approx(stats.ttest_1samp(margins, 0, alternative="greater").pvalue, rel=1e-9)
    assert tested.below == pytest.approx(stats.ttest_1samp(margins, 0, alternative="less").pvalue, rel=1e-9)
    theirs = stats.ttest_1samp(margins, 0).confidence_interval(0.99)
    assert (tested.low, tested.high) == pytest.approx((theirs.low, theirs.high))


def test_t_of_two_margins_by_hand() -> None:
    tested = student((0.1, 0.3))
    # mean 0.2, standard error 0.1, and with one degree of freedom t is Cauchy's
    assert tested.above == pytest.approx(0.5 - math.atan(2) / math.pi)
    assert tested.high == pytest.approx(0.2 + 0.1 * math.tan(0.475 * math.pi))


@pytest.mark.parametrize(("margin", "above", "below"), [(0.3, 2**-3, 1), (-0.3, 1, 2**-3), (0.0, 1, 1)])
def test_margins_without_spread_are_tested_by_their_signs_in_t(margin: float, above: float, below: float) -> None:
    assert student([margin] * 3) == MeanTest(T_TEST, above, below, margin, margin)


# Both


def test_one_margin_has_a_sign_and_no_test() -> None:
    tested = mean_test([0.3], ALWAYS_FLIPS)
    assert tested.method == SIGN
    assert math.isnan(tested.above)
    assert math.isnan(tested.below)
    assert (tested.low, tested.high) == (-math.inf, math.inf)


def test_signs_are_flipped_from_the_count_of_seeds_on_that_can_reach_the_finest_level() -> None:
    methods = [mean_test(np.arange(1.0, count + 1), 0.01 / 15).method for count in range(2, 21)]
    assert methods == [T_TEST] * 9 + [SIGN_FLIPS] * 10  # 2**-11 is below 0.01 / 15, 2**-10 is not
    assert mean_test([1.0, 2.0, 3.0], 2**-3).method == SIGN_FLIPS
    assert flips(np.arange(1.0, 12)).above == 2**-11


@pytest.mark.parametrize("test", [flips, student])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_neither_scale_nor_order_matters_and_negating_swaps_the_sides(test: Test, scale: float) -> None:
    margins = np.array(AN_EXAMPLE)
    tested = test(margins)
    other = test(scale * np.random.default_rng(0).permutation(margins))
    assert (other.above, other.below) == pytest.approx((tested.above, tested.below), rel=1e-9)
    assert (other.low / scale, other.high / scale) == pytest.approx((tested.low, tested.high))
    mirrored = test(-scale * margins)
    assert (mirrored.below, mirrored.above) == pytest.approx((tested.above, tested.below), rel=1e-9)
    assert (-mirrored.high / scale, -mirrored.low / scale) == pytest.approx((tested.low, tested.high))


# How often they err

TRIALS = 4000


def most(rate: float, trials: int = TRIALS) -> int:
    """What a count at this rate exceeds once in 10,000 times."""
    return int(stats.binom.ppf(1 - 1e-4, trials, rate))


@pytest.mark.parametrize("test", [flips, student])
@pytest.mark.parametrize("count", [4, 8, 12])
def test_without_an_effect_either_side_is_seen_no_more_often_than_its_level(test: Test, count: int) -> None:
    draw = np.random.default_rng(count)
    tests = [test(draw.normal(size=count), 0.9) for _ in range(TRIALS)]
    # flips come in steps of 2**-n, so theirs is the largest step that is at most the level
    rate = 0.05 if test is student else math.floor(0.05 * 2**count) / 2**count
    for seen in (sum(t.above <= 0.05 for t in tests), sum(t.below <= 0.05 for t in tests)):
        assert seen <= most(rate)
        assert seen >= TRIALS * rate - (most(rate) - TRIALS * rate)  # nor much more rarely: a test must use its level
    if 2**count > 20:
        assert sum(not t.low <= 0 <= t.high for t in tests) <= most(0.1)
    else:
        assert test is student or all(math.isinf(t.low) for t in tests)


def test_sign_flips_keep_their_level_where_seeds_are_far_from_normal() -> None:
    draw = np.random.default_rng(5)
    assert sum(flips(draw.standard_cauchy(9)).above <= 0.05 for _ in range(TRIALS)) <= most(0.05)


# Holm


def test_holm_by_hand() -> None:
    # 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2: there it stops, and 0.04 gets no more
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert holm([0.2], 0.05) == [0.05]
    assert holm([], 0.05) == []
    assert holm([0.0, 0.0], 0.05) == [0.025, 0.05]


def test_holm_stops_at_the_first_that_is_not_rejected_though_a_later_one_would_be() -> None:
    levels = holm([0.03, 0.031, 0.032], 0.05)
    assert levels == pytest.approx([0.05 / 3] * 3)


def test_holm_counts_what_was_not_tested_as_no_evidence() -> None:
    assert holm([math.nan, 0.02], 0.05) == holm([1.0, 0.02], 0.05) == [0.05, 0.025]


def test_holm_rejects_what_closed_testing_with_bonferroni_rejects() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        count = int(draw.integers(1, 7))
        p = np.round(draw.uniform(0, 0.12, count), 2)  # with ties
        rejected = [bool(one <= level) for one, level in zip(p, holm(list(p), 0.05), strict=True)]
        sets = [s for size in range(1, count + 1) for s in itertools.combinations(range(count), size)]
        sure = {s for s in sets if min(p[list(s)]) <= 0.05 / len(s)}
        assert rejected == [all(s in sure for s in sets if place in s) for place in range(count)]


@pytest.mark.parametrize("together", [0.0, 0.7, 1.0])
def test_holm_rarely_rejects_any_truth_however_the_tests_depend(together: float) -> None:
    draw = np.random.default_rng(1)
    wrong = 0
    for _ in range(TRIALS):
        shared = draw.normal()
        normals = math.sqrt(together) * shared + math.sqrt(1 - together) * draw.normal(size=8)
        p = stats.norm.sf(normals)
        p[5:] = 0  # three effects, which are surely seen and leave the others a larger share
        wrong += any(one <= level for one, level in zip(p[:5], holm(list(p), 0.05)[:5], strict=True))
    assert wrong <= most(0.05)
