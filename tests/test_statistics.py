import math

import numpy as np
import pytest
from scipy import stats

from kvbench.statistics import (
    FLOOR,
    log_area,
    log_losses,
    mean_interval,
    prediction_interval,
    spearman,
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
def test_time_to_target(epochs, losses, target, time):
    assert time_to_target(epochs, losses, target) == pytest.approx(time)


def test_time_to_target_on_the_source_curve():
    # lr_Model1 falls from 0.868 to 0.145 in its second epoch; lr_Model4 ends at 0.284
    by_hand = 1 + math.log(0.868 / 0.284) / math.log(0.868 / 0.145)
    assert time_to_target([1, 2, 3, 5, 10], [0.868, 0.145, 0.110, 0.095, 0.088], 0.284) == pytest.approx(by_hand)


def test_time_to_target_does_not_guess_at_a_missing_number():
    assert math.isnan(time_to_target([1, 2], [1.0, math.nan], 2.0))
    assert math.isnan(time_to_target([1, 2], [1.0, 0.5], math.nan))


def test_log_area_by_hand():
    assert log_area([1, 2, 3], np.exp([4.0, 2.0, 1.0])) == pytest.approx((3 + 1.5) / 2)
    assert log_area([1, 3, 4], np.exp([4.0, 2.0, 1.0])) == pytest.approx((2 * 3 + 1.5) / 3)
    assert log_area([7], [math.e]) == pytest.approx(1.0)
    assert math.isnan(log_area([1, 2], [1.0, math.nan]))


def test_log_losses_have_a_floor():
    assert log_losses([0.0, math.e])[0] == pytest.approx(math.log(FLOOR))
    assert log_losses([0.0, math.e])[1] == pytest.approx(1.0)
    assert math.isnan(log_losses([math.nan])[0])


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9998])
def test_mean_interval_is_students(level):
    values = [1.0, 2.0, 4.0, 4.5]
    expected = stats.t.interval(level, 3, loc=np.mean(values), scale=stats.sem(values))
    mean, low, high = mean_interval(values, level)
    assert mean == pytest.approx(2.875)
    assert (low, high) == pytest.approx(expected)


def test_mean_interval_of_one_value_of_equal_values_and_of_nan():
    assert mean_interval([3.0], 0.95) == (3.0, -math.inf, math.inf)
    assert mean_interval([0.5, 0.5, 0.5], 0.95) == (0.5, 0.5, 0.5)
    assert all(math.isnan(value) for value in mean_interval([1.0, math.nan], 0.95))


def test_prediction_interval_by_hand():
    # mean 2, s 1, t(2 df, 95%) 4.3027; half width 4.3027 * sqrt(1/3 + 1/6)
    low, high = prediction_interval([1.0, 2.0, 3.0], 6, 0.95)
    assert high - 2 == pytest.approx(4.30265 * math.sqrt(0.5), rel=1e-5)
    assert low + high == pytest.approx(4.0)


def test_prediction_interval_uses_the_level_and_the_fresh_count():
    narrow = prediction_interval([1.0, 2.0, 3.0], 3, 0.95)
    assert prediction_interval([1.0, 2.0, 3.0], 3, 0.99)[1] > narrow[1]
    assert prediction_interval([1.0, 2.0, 3.0], 1, 0.95)[1] > narrow[1]


def test_prediction_interval_covers_as_often_as_it_says():
    draw = np.random.default_rng(0).normal(size=(4000, 8))
    inside = 0
    for values in draw:
        low, high = prediction_interval(values[:5], 3, 0.9)
        inside += low <= values[5:].mean() <= high
    assert inside / len(draw) == pytest.approx(0.9, abs=0.015)


def test_prediction_interval_of_one_value_of_equal_values_and_of_nan():
    assert prediction_interval([3.0], 3, 0.95) == (-math.inf, math.inf)
    assert prediction_interval([0.1, 0.1, 0.1], 3, 0.95) == pytest.approx((0.1, 0.1), abs=1e-15)
    assert all(math.isnan(value) for value in prediction_interval([1.0, math.nan], 3, 0.95))


@pytest.mark.parametrize("second", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 1, 2, 7, 3], [1, 1, 1, 1, 2]])
def test_spearman_is_scipys(second):
    first = [0.3, 0.1, 0.2, 0.9, 0.1]
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_spearman_by_hand():
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)


def test_spearman_is_unknown_for_a_constant_or_a_missing_number():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2, 3], [1, math.nan, 3]))
