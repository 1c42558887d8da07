from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kvbench.reference.status import Status
from kvbench.reference.tolerances import (
    HEADERS,
    LOSS_FLOOR,
    SHARE_FLOOR,
    TOLERANCES,
    Deviation,
    Sample,
    Tolerance,
    measure,
)
from kvbench.stats.intervals import Floats, prediction_interval, shift_interval

CURVE, LOSS, VAL_LOSS, ACCURACY, AGREEMENT = TOLERANCES
EPOCHS = (1, 2, 4)
LEVEL = 0.99


def losses(logs: Floats | list[float]) -> Floats:
    """(S, 3) falling curves that end at these log losses."""
    curves: Floats = np.exp(np.asarray(logs)[:, None] + np.array([2.0, 1.0, 0.0]))
    return curves


def shares(last: Floats | list[float]) -> Floats:
    """(S, 3) rising curves that end at these shares."""
    curves: Floats = np.asarray(last)[:, None] - np.array([0.2, 0.1, 0.0])
    return curves


# Values


def test_values_are_log_losses_and_plain_shares_of_the_last_epoch() -> None:
    np.testing.assert_allclose(LOSS.values(EPOCHS, losses([0.5, -0.3])), [0.5, -0.3])
    np.testing.assert_allclose(VAL_LOSS.values(EPOCHS, losses([0.5, -0.3])), [0.5, -0.3])
    np.testing.assert_allclose(ACCURACY.values(EPOCHS, shares([0.5, 0.3])), [0.5, 0.3])
    assert [tolerance.loss for tolerance in TOLERANCES] == [True, True, True, False, False]
    assert [tolerance.optional for tolerance in TOLERANCES] == [False, False, True, False, True]


def test_a_whole_curve_is_its_mean_log_loss() -> None:
    # trapezoids: (2 + 1) / 2 * 1 + (1 + 0) / 2 * 2, over 3 epochs
    np.testing.assert_allclose(CURVE.values(EPOCHS, losses([0.5, -0.3])), [0.5 + 2.5 / 3, -0.3 + 2.5 / 3])


# New seeds


def test_new_seeds_are_held_against_the_prediction_interval_of_the_reference() -> None:
    reference, fresh = [0.10, 0.12, 0.11, 0.16], [0.15, 0.17]
    low, high = prediction_interval(reference, 2, LEVEL)
    deviation = measure(LOSS, EPOCHS, Sample(losses(fresh), losses(reference)), LEVEL)
    assert deviation.status == Status.WITHIN
    assert math.log(deviation.obtained) == pytest.approx(0.16)
    assert math.log(deviation.expected) == pytest.approx(0.1225)
    assert math.log(deviation.low) == pytest.approx(low - LOSS_FLOOR)
    assert math.log(deviation.high) == pytest.approx(high + LOSS_FLOOR)
    assert deviation.in_sds == pytest.approx(0.0375 / np.std(reference, ddof=1))
    assert deviation.excess == pytest.approx(0.0375 / ((high - low) / 2 + LOSS_FLOOR))


def test_a_share_is_judged_as_it_is() -> None:
    reference, fresh = [0.60, 0.62, 0.61], [0.55, 0.56]
    low, high = prediction_interval(reference, 2, LEVEL)
    deviation = measure(ACCURACY, EPOCHS, Sample(shares(fresh), shares(reference)), LEVEL)
    numbers = (deviation.obtained, deviation.expected, deviation.low, deviation.high)
    assert numbers == pytest.approx((0.555, 0.61, low - SHARE_FLOOR, high + SHARE_FLOOR))


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(("tolerance", "floor"), [(LOSS, LOSS_FLOOR), (CURVE, LOSS_FLOOR), (ACCURACY, SHARE_FLOOR)])
@pytest.mark.parametrize("same", [False, True])
def test_without_any_spread_the_floor_is_allowed_and_no_more(
    tolerance: Tolerance, floor: float, side: int, same: bool
) -> None:
    make = losses if tolerance.loss else shares
    reference = make([0.5] * 4)
    for share, verdict in ((0.99, Status.WITHIN), (1.01, Status.DRIFTED)):
        fresh = make([0.5 + side * share * floor] * 2)
        pairs = (reference[:2], reference[:3], reference[:3]) if same else ()
        deviation = measure(tolerance, EPOCHS, Sample(fresh, reference, *pairs), LEVEL)
        assert deviation.status == verdict
        assert deviation.status.failed == (verdict == Status.DRIFTED)
        assert deviation.excess == pytest.approx(share)
        assert math.isnan(deviation.in_sds)  # there is no standard deviation to count in


def test_one_reference_seed_is_shown_and_not_judged() -> None:
    deviation = measure(LOSS, EPOCHS, Sample(losses([5.0]), losses([0.1])), LEVEL)
    assert deviation.status == Status.NOT_JUDGED
    assert not deviation.status.failed
    assert math.log(deviation.obtained) == pytest.approx(5)
    assert math.isnan(deviation.low)
    assert math.isnan(deviation.high)
    assert math.isnan(deviation.in_sds)
    cells = dict(zip(HEADERS, deviation.row(), strict=True))
    assert (cells[""], cells["allowed"], cells["status"]) == ("", "unknown", Status.NOT_JUDGED)
    assert (cells["obtained"], cells["expected"], cells["difference"]) == ("148.4", "1.105", "+13328.98%")


# The same seeds


def test_the_same_seeds_are_held_against_what_rounding_moved_the_replicates() -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9])
    moves = np.array([1e-3, -2e-3, 2e-3])
    fresh = reference[1:3] + np.array([0.004, 0.010])
    sample = Sample(
        losses(fresh), losses(reference), losses(reference[1:3]), losses(reference[:3] + moves), losses(reference[:3])
    )
    deviation = measure(LOSS, EPOCHS, sample, LEVEL)
    assert deviation.paired
    low, high = shift_interval(moves, 2, LEVEL)
    assert math.log(deviation.expected) == pytest.approx(0.4)  # of these two seeds, not of all four
    assert math.log(deviation.obtained) == pytest.approx(0.407)
    assert math.log(deviation.low) == pytest.approx(0.4 + low - LOSS_FLOOR)
    assert math.log(deviation.high) == pytest.approx(0.4 + high + LOSS_FLOOR)
    assert deviation.status == Status.WITHIN
    assert deviation.excess == pytest.approx(0.007 / (high + LOSS_FLOOR))
    assert deviation.in_sds == pytest.approx(0.007 / reference.std(ddof=1))  # between seeds, for the reader


def test_a_change_below_the_spread_of_seeds_is_seen_with_the_same_seeds_only() -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9])
    fresh, replicates = losses(reference[:2] + 0.02), losses(reference + np.array([1e-4, -1e-4, 2e-4, 0]))
    assert measure(LOSS, EPOCHS, Sample(fresh, losses(reference)), LEVEL).status == Status.WITHIN
    sample = Sample(fresh, losses(reference), losses(reference[:2]), replicates, losses(reference))
    assert measure(LOSS, EPOCHS, sample, LEVEL).status == Status.DRIFTED


@pytest.mark.parametrize(("rounding", "paired"), [(0.01, True), (1.0, False)])
def test_where_rounding_moves_more_than_seeds_differ_the_same_seeds_count_as_any(rounding: float, paired: bool) -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9, 0.4, 0.2])
    replicates = reference + rounding * np.array([1, -1, 1, -1, 1, -1])
    sample = Sample(
        losses(reference[:2] + 0.1), losses(reference), losses(reference[:2]), losses(replicates), losses(reference)
    )
    deviation = measure(LOSS, EPOCHS, sample, LEVEL)
    assert deviation.paired == paired
    assert deviation.row()[HEADERS.index("against")] == ("same seeds" if paired else "all seeds")
    assert math.log(deviation.expected) == pytest.approx(0.3 if paired else 0.4)
    intervals = prediction_interval(reference, 2, LEVEL), shift_interval(replicates - reference, 2, LEVEL)
    widths = [high - low + 2 * LOSS_FLOOR for low, high in intervals]
    assert math.log(deviation.high / deviation.low) == pytest.approx(min(widths))


# Both


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("tolerance", [CURVE, LOSS, ACCURACY])
def test_a_gate_fails_just_where_its_excess_is_above_1(tolerance: Tolerance, same: bool) -> None:
    draw = np.random.default_rng(0)
    make = losses if tolerance.loss else shares
    found = []
    for _ in range(300):
        reference, fresh, replicates = (draw.normal(0.5, 0.01, size) for size in (4, 2, 4))
        pairs = (make(reference[:2]), make(reference + (replicates - 0.5)), make(reference)) if same else ()
        deviation = measure(tolerance, EPOCHS, Sample(make(fresh), make(reference), *pairs), 0.5)
        assert (deviation.excess > 1) == (deviation.status == Status.DRIFTED)
        assert (deviation.low <= deviation.obtained <= deviation.high) == (deviation.status == Status.WITHIN)
        found.append(deviation.status)
    assert 50 < found.count(Status.DRIFTED) < 250


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_clean_runs_raise_no_more_alarms_than_the_level_lets(level: float) -> None:
    trials = 2000
    draw = np.random.default_rng(int(100 * level))
    alarms = {False: 0, True: 0}
    for _ in range(trials):
        reference, fresh = draw.normal(size=5), draw.normal(size=3)
        new = measure(LOSS, EPOCHS, Sample(losses(fresh), losses(reference)), level)
        noise = 0.1 * draw.normal(size=9)  # of rounding: in the fresh runs as in the replicates
        again, replicates = losses(reference[:3] + noise[:3]), losses(reference + noise[3:8])
        same = measure(
            LOSS, EPOCHS, Sample(again, losses(reference), losses(reference[:3]), replicates, losses(reference)), level
        )
        alarms[False] += new.status.failed
        alarms[True] += same.status.failed
    for count in alarms.values():
        assert stats.binom.ppf(1e-4, trials, (1 - level) * 0.7) <= count  # the floor makes it a bit rarer
        assert count <= stats.binom.ppf(1 - 1e-4, trials, 1 - level)


def test_where_runs_repeat_in_nothing_replicates_seldom_look_as_if_they_did() -> None:
    draw = np.random.default_rng(4)
    paired = 0
    for _ in range(1000):
        reference, replicates, fresh = (
            draw.normal(size=size) for size in (20, 6, 4)
        )  # all chaos: seeds explain nothing
        sample = Sample(*(losses(v) for v in (fresh, reference, reference[:4], replicates, reference[:6])))
        paired += measure(LOSS, EPOCHS, sample, LEVEL).paired
    assert paired <= 5


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("side", ["fresh", "reference"])
def test_a_number_that_is_none_fails(tolerance: Tolerance, side: str) -> None:
    make = losses if tolerance.loss else shares
    curves = {"fresh": make([0.5, 0.6]), "reference": make([0.5, 0.6, 0.7])}
    curves[side][1, -1] = math.nan
    deviation = measure(tolerance, EPOCHS, Sample(**curves), LEVEL)
    assert (deviation.status, deviation.status.failed) == (Status.NO_NUMBER, True)
    assert math.isnan(deviation.excess)
    assert deviation.row()[0] == ">>"


def test_a_metric_that_one_side_did_not_measure_is_not_compared_if_it_is_optional() -> None:
    nothing = np.full((2, 3), math.nan)
    for fresh, reference in ((nothing, shares([0.5, 0.6])), (shares([0.5, 0.6]), nothing)):
        assert measure(AGREEMENT, EPOCHS, Sample(fresh, reference), LEVEL) == Deviation(AGREEMENT, Status.NOT_MEASURED)
        assert measure(ACCURACY, EPOCHS, Sample(fresh, reference), LEVEL).status == Status.NO_NUMBER


def test_replicates_that_did_not_measure_an_optional_metric_accuse_no_run() -> None:
    reference = shares([0.5, 0.6, 0.7])
    nothing = np.full((3, 3), math.nan)
    deviation = measure(AGREEMENT, EPOCHS, Sample(reference[:2], reference, reference[:2], nothing, reference), LEVEL)
    assert not deviation.status.failed


# Rows


def test_a_row_has_a_cell_under_each_header() -> None:
    deviation = measure(LOSS, EPOCHS, Sample(losses([0.3, 0.3]), losses([0.10, 0.12, 0.11])), LEVEL)
    cells = dict(zip(HEADERS, deviation.row(), strict=True))
    assert cells[""] == ">>"
    assert cells["difference"] == f"{100 * math.expm1(0.19):+.2f}%"
    assert cells["in SDs of a seed"] == "+19.00"
    assert cells["status"] == "DRIFTED"
    deviation = measure(ACCURACY, EPOCHS, Sample(shares([0.5, 0.5]), shares([0.51, 0.50, 0.52])), LEVEL)
    assert deviation.row()[4] == "-0.0100"


def test_a_reference_of_no_accuracy_at_all_can_be_shown() -> None:
    deviation = measure(ACCURACY, EPOCHS, Sample(np.zeros((2, 3)), np.zeros((3, 3))), LEVEL)
    assert deviation.status == Status.WITHIN
    assert deviation.row()[2:5] == ["0", "0", "+0.0000"]


def test_losses_beyond_any_scale_are_shown() -> None:
    deviation = measure(LOSS, EPOCHS, Sample(np.full((2, 3), 1e300), np.zeros((3, 3))), LEVEL)
    assert deviation.status.failed
    assert "e" in deviation.row()[2]
