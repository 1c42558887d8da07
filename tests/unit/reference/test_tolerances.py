from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kvbench.reference.tolerances import (
    GATES,
    HEADERS,
    LOSS_FLOOR,
    MOVED,
    NO_NUMBER,
    NOT_COMPARED,
    NOT_JUDGED,
    SHARE_FLOOR,
    WITHIN,
    Gate,
    Outcome,
    Sample,
    judge,
)
from kvbench.stats.intervals import Floats, prediction_interval, shift_interval

CURVE, LOSS, VAL_LOSS, ACCURACY, AGREEMENT = GATES
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
    assert [gate.loss for gate in GATES] == [True, True, True, False, False]
    assert [gate.optional for gate in GATES] == [False, False, True, False, True]


def test_a_whole_curve_is_its_mean_log_loss() -> None:
    # trapezoids: (2 + 1) / 2 * 1 + (1 + 0) / 2 * 2, over 3 epochs
    np.testing.assert_allclose(CURVE.values(EPOCHS, losses([0.5, -0.3])), [0.5 + 2.5 / 3, -0.3 + 2.5 / 3])


# New seeds


def test_new_seeds_are_held_against_the_prediction_interval_of_the_reference() -> None:
    reference, fresh = [0.10, 0.12, 0.11, 0.16], [0.15, 0.17]
    low, high = prediction_interval(reference, 2, LEVEL)
    outcome = judge(LOSS, EPOCHS, Sample(losses(fresh), losses(reference)), LEVEL)
    assert outcome.verdict == WITHIN
    assert math.log(outcome.obtained) == pytest.approx(0.16)
    assert math.log(outcome.expected) == pytest.approx(0.1225)
    assert math.log(outcome.low) == pytest.approx(low - LOSS_FLOOR)
    assert math.log(outcome.high) == pytest.approx(high + LOSS_FLOOR)
    assert outcome.deviations == pytest.approx(0.0375 / np.std(reference, ddof=1))
    assert outcome.excess == pytest.approx(0.0375 / ((high - low) / 2 + LOSS_FLOOR))


def test_a_share_is_judged_as_it_is() -> None:
    reference, fresh = [0.60, 0.62, 0.61], [0.55, 0.56]
    low, high = prediction_interval(reference, 2, LEVEL)
    outcome = judge(ACCURACY, EPOCHS, Sample(shares(fresh), shares(reference)), LEVEL)
    numbers = (outcome.obtained, outcome.expected, outcome.low, outcome.high)
    assert numbers == pytest.approx((0.555, 0.61, low - SHARE_FLOOR, high + SHARE_FLOOR))


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(("gate", "floor"), [(LOSS, LOSS_FLOOR), (CURVE, LOSS_FLOOR), (ACCURACY, SHARE_FLOOR)])
@pytest.mark.parametrize("same", [False, True])
def test_without_any_spread_the_floor_is_allowed_and_no_more(gate: Gate, floor: float, side: int, same: bool) -> None:
    make = losses if gate.loss else shares
    reference = make([0.5] * 4)
    for share, verdict in ((0.99, WITHIN), (1.01, MOVED)):
        fresh = make([0.5 + side * share * floor] * 2)
        pairs = (reference[:2], reference[:3], reference[:3]) if same else ()
        outcome = judge(gate, EPOCHS, Sample(fresh, reference, *pairs), LEVEL)
        assert outcome.verdict == verdict
        assert outcome.failed == (verdict == MOVED)
        assert outcome.excess == pytest.approx(share)
        assert math.isnan(outcome.deviations)  # there is no standard deviation to count in


def test_one_reference_seed_is_shown_and_not_judged() -> None:
    outcome = judge(LOSS, EPOCHS, Sample(losses([5.0]), losses([0.1])), LEVEL)
    assert outcome.verdict == NOT_JUDGED
    assert not outcome.failed
    assert math.log(outcome.obtained) == pytest.approx(5)
    assert math.isnan(outcome.low)
    assert math.isnan(outcome.high)
    assert math.isnan(outcome.deviations)
    cells = dict(zip(HEADERS, outcome.row(), strict=True))
    assert (cells[""], cells["allowed"], cells["verdict"]) == ("", "unknown", NOT_JUDGED)
    assert (cells["obtained"], cells["expected"], cells["difference"]) == ("148.4", "1.105", "+13328.98%")


# The same seeds


def test_the_same_seeds_are_held_against_what_rounding_moved_the_twins() -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9])
    moves = np.array([1e-3, -2e-3, 2e-3])
    fresh = reference[1:3] + np.array([0.004, 0.010])
    sample = Sample(
        losses(fresh), losses(reference), losses(reference[1:3]), losses(reference[:3] + moves), losses(reference[:3])
    )
    outcome = judge(LOSS, EPOCHS, sample, LEVEL)
    assert outcome.paired
    low, high = shift_interval(moves, 2, LEVEL)
    assert math.log(outcome.expected) == pytest.approx(0.4)  # of these two seeds, not of all four
    assert math.log(outcome.obtained) == pytest.approx(0.407)
    assert math.log(outcome.low) == pytest.approx(0.4 + low - LOSS_FLOOR)
    assert math.log(outcome.high) == pytest.approx(0.4 + high + LOSS_FLOOR)
    assert outcome.verdict == WITHIN
    assert outcome.excess == pytest.approx(0.007 / (high + LOSS_FLOOR))
    assert outcome.deviations == pytest.approx(0.007 / reference.std(ddof=1))  # between seeds, for the reader


def test_a_change_below_the_spread_of_seeds_is_seen_with_the_same_seeds_only() -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9])
    fresh, replicates = losses(reference[:2] + 0.02), losses(reference + np.array([1e-4, -1e-4, 2e-4, 0]))
    assert judge(LOSS, EPOCHS, Sample(fresh, losses(reference)), LEVEL).verdict == WITHIN
    sample = Sample(fresh, losses(reference), losses(reference[:2]), replicates, losses(reference))
    assert judge(LOSS, EPOCHS, sample, LEVEL).verdict == MOVED


@pytest.mark.parametrize(("rounding", "paired"), [(0.01, True), (1.0, False)])
def test_where_rounding_moves_more_than_seeds_differ_the_same_seeds_count_as_any(rounding: float, paired: bool) -> None:
    reference = np.array([0.1, 0.5, 0.3, 0.9, 0.4, 0.2])
    replicates = reference + rounding * np.array([1, -1, 1, -1, 1, -1])
    sample = Sample(
        losses(reference[:2] + 0.1), losses(reference), losses(reference[:2]), losses(replicates), losses(reference)
    )
    outcome = judge(LOSS, EPOCHS, sample, LEVEL)
    assert outcome.paired == paired
    assert outcome.row()[HEADERS.index("against")] == ("same seeds" if paired else "all seeds")
    assert math.log(outcome.expected) == pytest.approx(0.3 if paired else 0.4)
    intervals = prediction_interval(reference, 2, LEVEL), shift_interval(replicates - reference, 2, LEVEL)
    widths = [high - low + 2 * LOSS_FLOOR for low, high in intervals]
    assert math.log(outcome.high / outcome.low) == pytest.approx(min(widths))


# Both


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("gate", [CURVE, LOSS, ACCURACY])
def test_a_gate_fails_just_where_its_excess_is_above_1(gate: Gate, same: bool) -> None:
    draw = np.random.default_rng(0)
    make = losses if gate.loss else shares
    found = []
    for _ in range(300):
        reference, fresh, replicates = (draw.normal(0.5, 0.01, size) for size in (4, 2, 4))
        pairs = (make(reference[:2]), make(reference + (replicates - 0.5)), make(reference)) if same else ()
        outcome = judge(gate, EPOCHS, Sample(make(fresh), make(reference), *pairs), 0.5)
        assert (outcome.excess > 1) == (outcome.verdict == MOVED)
        assert (outcome.low <= outcome.obtained <= outcome.high) == (outcome.verdict == WITHIN)
        found.append(outcome.verdict)
    assert 50 < found.count(MOVED) < 250


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_clean_runs_raise_no_more_alarms_than_the_level_lets(level: float) -> None:
    trials = 2000
    draw = np.random.default_rng(int(100 * level))
    alarms = {False: 0, True: 0}
    for _ in range(trials):
        reference, fresh = draw.normal(size=5), draw.normal(size=3)
        new = judge(LOSS, EPOCHS, Sample(losses(fresh), losses(reference)), level)
        noise = 0.1 * draw.normal(size=9)  # of rounding: in the fresh runs as in the replicates
        again, replicates = losses(reference[:3] + noise[:3]), losses(reference + noise[3:8])
        same = judge(
            LOSS, EPOCHS, Sample(again, losses(reference), losses(reference[:3]), replicates, losses(reference)), level
        )
        alarms[False] += new.failed
        alarms[True] += same.failed
    for count in alarms.values():
        assert stats.binom.ppf(1e-4, trials, (1 - level) * 0.7) <= count  # the floor makes it a bit rarer
        assert count <= stats.binom.ppf(1 - 1e-4, trials, 1 - level)


def test_where_runs_repeat_in_nothing_twins_seldom_look_as_if_they_did() -> None:
    draw = np.random.default_rng(4)
    paired = 0
    for _ in range(1000):
        reference, replicates, fresh = (
            draw.normal(size=size) for size in (20, 6, 4)
        )  # all chaos: seeds explain nothing
        sample = Sample(*(losses(v) for v in (fresh, reference, reference[:4], replicates, reference[:6])))
        paired += judge(LOSS, EPOCHS, sample, LEVEL).paired
    assert paired <= 5


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("side", ["fresh", "reference"])
def test_a_number_that_is_none_fails(gate: Gate, side: str) -> None:
    make = losses if gate.loss else shares
    curves = {"fresh": make([0.5, 0.6]), "reference": make([0.5, 0.6, 0.7])}
    curves[side][1, -1] = math.nan
    outcome = judge(gate, EPOCHS, Sample(**curves), LEVEL)
    assert (outcome.verdict, outcome.failed) == (NO_NUMBER, True)
    assert math.isnan(outcome.excess)
    assert outcome.row()[0] == ">>"


def test_a_metric_that_one_side_did_not_measure_is_not_compared_if_it_is_optional() -> None:
    nothing = np.full((2, 3), math.nan)
    for fresh, reference in ((nothing, shares([0.5, 0.6])), (shares([0.5, 0.6]), nothing)):
        assert judge(AGREEMENT, EPOCHS, Sample(fresh, reference), LEVEL) == Outcome(AGREEMENT, NOT_COMPARED)
        assert judge(ACCURACY, EPOCHS, Sample(fresh, reference), LEVEL).verdict == NO_NUMBER


def test_twins_that_did_not_measure_an_optional_metric_accuse_no_run() -> None:
    reference = shares([0.5, 0.6, 0.7])
    nothing = np.full((3, 3), math.nan)
    outcome = judge(AGREEMENT, EPOCHS, Sample(reference[:2], reference, reference[:2], nothing, reference), LEVEL)
    assert not outcome.failed


# Rows


def test_a_row_has_a_cell_under_each_header() -> None:
    outcome = judge(LOSS, EPOCHS, Sample(losses([0.3, 0.3]), losses([0.10, 0.12, 0.11])), LEVEL)
    cells = dict(zip(HEADERS, outcome.row(), strict=True))
    assert cells[""] == ">>"
    assert cells["difference"] == f"{100 * math.expm1(0.19):+.2f}%"
    assert cells["in SDs of a seed"] == "+19.00"
    assert cells["verdict"] == "MOVED"
    outcome = judge(ACCURACY, EPOCHS, Sample(shares([0.5, 0.5]), shares([0.51, 0.50, 0.52])), LEVEL)
    assert outcome.row()[4] == "-0.0100"


def test_a_reference_of_no_accuracy_at_all_can_be_shown() -> None:
    outcome = judge(ACCURACY, EPOCHS, Sample(np.zeros((2, 3)), np.zeros((3, 3))), LEVEL)
    assert outcome.verdict == WITHIN
    assert outcome.row()[2:5] == ["0", "0", "+0.0000"]


def test_losses_beyond_any_scale_are_shown() -> None:
    outcome = judge(LOSS, EPOCHS, Sample(np.full((2, 3), 1e300), np.zeros((3, 3))), LEVEL)
    assert outcome.failed
    assert "e" in outcome.row()[2]
