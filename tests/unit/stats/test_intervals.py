from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kvbench.stats.intervals import (
    FLOOR,
    exact_mean,
    log_area,
    log_losses,
    prediction_interval,
    shift_interval,
    spearman,
    time_to_share,
    time_to_target,
)


@pytest.mark.parametrize(
    ("epochs", "losses", "target", "time"),
    [
        ([1, 2, 3], [8.0, 2.0, 1.0], 4.0, 1.5),  # log2: 3, 1, 0; half way from 3 to 1
        ([1, 2, 3], [8.0, 2.0, 1.0], 2.0, 2.0),
        ([1, 2, 3], [8.0, 2.0, 1.0], 1.0, 3.0),
        ([1, 3, 10], [8.0, 2.0, 1.0], 4.0, 2.0),  # epochs need not follow each other
        ([1, 2, 3], [8.0, 2.0, 1.0], 9.0, 1.0),  # there already
        ([1, 2, 3], [8.0, 2.0, 1.0], 8.0, 1.0),
        ([1, 2, 3], [8.0, 2.0, 1.0], 0.9, math.inf),
        ([1, 2, 3, 4], [8.0, 2.0, 8.0, 1.0], 4.0, 1.5),  # the first crossing counts
        ([5], [1.0], 2.0, 5.0),
        ([5], [1.0], 0.5, math.inf),
        ([1, 2], [1.0, 0.0], 0.0, 2.0),
    ],
)
def test_time_to_target(epochs: list[int], losses: list[float], target: float, time: float) -> None:
    assert time_to_target(epochs, losses, target) == pytest.approx(time)


def test_time_to_target_on_the_source_curve() -> None:
    # lr_Model1 falls from 0.868 to 0.145 in its second epoch; lr_Model4 ends at 0.284
    by_hand = 1 + math.log(0.868 / 0.284) / math.log(0.868 / 0.145)
    assert time_to_target([1, 2, 3, 5, 10], [0.868, 0.145, 0.110, 0.095, 0.088], 0.284) == pytest.approx(by_hand)


def test_time_to_target_does_not_guess_at_a_missing_number() -> None:
    assert math.isnan(time_to_target([1, 2], [1.0, math.nan], 2.0))
    assert math.isnan(time_to_target([1, 2], [1.0, 0.5], math.nan))


@pytest.mark.parametrize(
    ("losses", "share", "time"),
    [
        ([8.0, 2.0, 1.0], 0.5, 1.75),  # log2: 3, 1, 0; 1.5 on the way from 3 to 1
        ([8.0, 2.0, 1.0], 2 / 3, 2.0),
        ([8.0, 2.0, 1.0], 1.0, 3.0),
        ([8.0, 2.0, 1.0], 0.0, 1.0),
        ([8.0, 1.0, 2.0], 1.0, 2.0),  # to the smallest loss, not the last
        ([8.0, 2.0, 8.0, 1.0], 0.5, 1.75),  # the first crossing counts
        ([1.0, 1.0, 1.0], 0.9, 1.0),
        ([1.0, 2.0, 3.0], 0.9, 1.0),  # never improves
        ([1.0], 0.9, 1.0),
        ([1.0, 0.0], 1.0, 2.0),
    ],
)
def test_time_to_a_share_of_the_own_improvement(losses: list[float], share: float, time: float) -> None:
    assert time_to_share(range(1, len(losses) + 1), losses, share) == pytest.approx(time)


def test_time_to_a_share_takes_any_times_and_any_unit_of_loss() -> None:
    curve = np.array([0.864, 0.145, 0.112, 0.101, 0.099])
    epochs = np.array([1, 2, 3, 5, 10])
    one = time_to_share(epochs, curve, 0.9)
    assert time_to_share(60 * epochs, 7 * curve, 0.9) == pytest.approx(60 * one)
    assert 2 < one < 3


def test_the_whole_improvement_is_reached_however_its_logarithm_rounds() -> None:
    for last in np.random.default_rng(0).uniform(1e-6, 0.9, 500):
        assert time_to_share([1, 2], [1.0, last], 1.0) == pytest.approx(2, abs=1e-6)


def test_time_to_a_share_does_not_guess_at_a_missing_number() -> None:
    assert math.isnan(time_to_share([1, 2, 3], [1.0, math.nan, 0.1], 0.5))


def test_log_area_by_hand() -> None:
    assert log_area([1, 2, 3], np.exp([4.0, 2.0, 1.0])) == pytest.approx((3 + 1.5) / 2)
    assert log_area([1, 3, 4], np.exp([4.0, 2.0, 1.0])) == pytest.approx((2 * 3 + 1.5) / 3)
    assert log_area([7], [math.e]) == pytest.approx(1.0)
    assert math.isnan(log_area([1, 2], [1.0, math.nan]))


def test_a_mean_is_rounded_once_in_any_order_and_does_not_overflow() -> None:
    values = np.random.default_rng(0).normal(size=999)
    assert len({exact_mean(np.random.default_rng(seed).permutation(values)) for seed in range(20)}) == 1
    assert exact_mean(values) == pytest.approx(values.mean())
    assert exact_mean([1.7e308] * 1000) == 1.7e308
    assert exact_mean([1e308, 1e308, -1e308, -1e308, 5.0]) == 1
    assert math.isnan(exact_mean([1.0, math.nan]))
    assert exact_mean([1.0, math.inf]) == math.inf


def test_log_losses_have_a_floor() -> None:
    assert log_losses([0.0, math.e])[0] == pytest.approx(math.log(FLOOR))
    assert log_losses([0.0, math.e])[1] == pytest.approx(1.0)
    assert math.isnan(log_losses([math.nan])[0])


def test_prediction_interval_by_hand() -> None:
    # mean 2, s 1, t(2 df, 95%) 4.3027; half width 4.3027 * sqrt(1/3 + 1/6)
    low, high = prediction_interval([1.0, 2.0, 3.0], 6, 0.95)
    assert high - 2 == pytest.approx(4.30265 * math.sqrt(0.5), rel=1e-5)
    assert low + high == pytest.approx(4.0)


def test_prediction_interval_uses_the_level_and_the_fresh_count() -> None:
    narrow = prediction_interval([1.0, 2.0, 3.0], 3, 0.95)
    assert prediction_interval([1.0, 2.0, 3.0], 3, 0.99)[1] > narrow[1]
    assert prediction_interval([1.0, 2.0, 3.0], 1, 0.95)[1] > narrow[1]


def test_prediction_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0).normal(size=(4000, 8))
    inside = 0
    for values in draw:
        low, high = prediction_interval(values[:5], 3, 0.9)
        inside += low <= values[5:].mean() <= high
    assert inside / len(draw) == pytest.approx(0.9, abs=0.015)


def test_prediction_interval_of_one_value_of_equal_values_and_of_nan() -> None:
    assert prediction_interval([3.0], 3, 0.95) == (-math.inf, math.inf)
    assert prediction_interval([0.1, 0.1, 0.1], 3, 0.95) == pytest.approx((0.1, 0.1), abs=1e-15)
    assert all(math.isnan(value) for value in prediction_interval([1.0, math.nan], 3, 0.95))


def test_shift_interval_by_hand() -> None:
    # squares 1, 4, 4, mean 3; t(3 df, 95%) 3.182446; half width 3.182446 * sqrt(3 / 2)
    low, high = shift_interval([-1.0, 2.0, -2.0], 2)
    assert high == pytest.approx(3.182446 * math.sqrt(1.5), rel=1e-6)
    assert low == -high
    assert shift_interval([1.0, 2.0, 2.0], 2) == (low, high)  # about 0, which is known, not about their mean


def test_shift_interval_narrows_with_replicas_fresh_seeds_and_a_lower_level() -> None:
    width = shift_interval([1.0, -1.0, 1.0], 3)[1]
    assert shift_interval([1.0, -1.0, 1.0, -1.0], 3)[1] < width
    assert shift_interval([1.0, -1.0, 1.0], 4)[1] < width
    assert shift_interval([1.0, -1.0, 1.0], 3, 0.9)[1] < width


@pytest.mark.parametrize(("replicas", "fresh", "level"), [(6, 4, 0.9), (2, 1, 0.95), (6, 1, 0.99)])
def test_shift_interval_covers_as_often_as_it_says(replicas: int, fresh: int, level: float) -> None:
    draw = np.random.default_rng(replicas).normal(size=(4000, replicas + fresh))
    inside = 0
    for values in draw:
        low, high = shift_interval(values[:replicas], fresh, level)
        inside += low <= values[replicas:].mean() <= high
    assert inside / len(draw) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / len(draw)))


def test_shift_interval_of_one_value_of_no_difference_and_of_nan() -> None:
    assert shift_interval([2.0], 1)[1] == pytest.approx(2 * 12.7062, rel=1e-5)
    assert shift_interval([0.0, 0.0], 3) == (0, 0)
    assert all(math.isnan(value) for value in shift_interval([1.0, math.nan], 3))


@pytest.mark.parametrize("second", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 1, 2, 7, 3], [1, 1, 1, 1, 2]])
def test_spearman_is_scipys(second: list[float]) -> None:
    first = [0.3, 0.1, 0.2, 0.9, 0.1]
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)


def test_spearman_is_unknown_for_a_constant_or_a_missing_number() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2, 3], [1, math.nan, 3]))
