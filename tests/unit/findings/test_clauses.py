from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from kvbench.findings.clauses import DIFFERENCE, EPOCHS, RATIO, Claim, Clause, decide, evaluate_claim, format_margin
from kvbench.stats.significance import SIGN, SIGN_FLIPS, T_TEST, mean_test, seeds_for, smallest_effect

FINEST = 0.01 / 15
FIVE = np.array([0.2, 0.3, 0.1, 0.25, 0.15])  # p = 0.0024 by t


def claimed(margins: ArrayLike, **other: Any) -> Claim:
    """A claim with margins (S,) or (S, P)."""
    matrix = np.asarray(margins, dtype=float)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    rivals = tuple("ABCDE"[: matrix.shape[1]])
    fields: dict[str, Any] = {"scale": DIFFERENCE, "seeds": tuple(range(len(matrix))), "rivals": rivals, **other}
    return Claim("an-id", "a sentence", margins=matrix, values={"X": "0.7"}, **fields)


def decided(margins: ArrayLike, level: float = 0.01, siblings: int = 1, **other: Any) -> Clause:
    claim = claimed(margins, **other)
    return decide(evaluate_claim(claim, FINEST / siblings / len(claim.rivals)), level, siblings)


# Against several rivals


def test_a_claim_is_as_sure_as_against_the_rival_that_is_beaten_least_surely() -> None:
    draw = np.random.default_rng(0)
    for count in (4, 12):  # by t and by sign flips
        margins = draw.normal([0.5, 0.2, 1.5], 0.4, (count, 3)).round(6)
        tests = [mean_test(column, FINEST) for column in margins.T]
        evidence = evaluate_claim(claimed(margins), FINEST)
        assert evidence.holds == max(test.above for test in tests)
        assert evidence.fails == min(1.0, 3 * min(test.below for test in tests))
        assert evidence.decisive == max(range(3), key=lambda place: tests[place].above)
        assert evidence.test == tests[evidence.decisive]


def test_the_rival_that_decides_need_not_be_the_one_with_the_smallest_mean() -> None:
    near, unsure = np.array([0.10, 0.11, 0.10, 0.09]), np.array([0.1, 2.0, -0.4, 0.9])
    clause = decided(np.stack([near, unsure], axis=1))
    assert clause.rival == "B"
    assert clause.margin == pytest.approx(unsure.mean())
    assert clause.margins == dict(enumerate(unsure))
    assert "the closest rival is B" in clause.note
    assert decided(near).note == ""


def test_more_rivals_make_a_failure_less_sure_and_a_success_no_less() -> None:
    beaten = FIVE + 1
    alone = mean_test(FIVE, FINEST).above
    for more in (0, 2):
        for sign in (1, -1):
            evidence = evaluate_claim(claimed(np.stack([sign * FIVE, *[beaten] * more], axis=1)), FINEST)
            assert (evidence.holds if sign > 0 else evidence.fails / (1 + more)) == pytest.approx(alone)


def test_a_p_value_is_at_most_1() -> None:
    hopeless = evaluate_claim(claimed(np.stack([FIVE] * 5, axis=1)), FINEST)
    assert hopeless.fails == 1
    assert decided(np.stack([FIVE] * 5, axis=1), siblings=10).p == hopeless.holds


# Levels


def test_a_clause_holds_at_the_level_and_fails_at_its_share_of_it() -> None:
    p = mean_test(FIVE, FINEST).above
    above, below = p * (1 + 1e-9), p * (1 - 1e-9)
    for siblings in (1, 4):
        assert decided(FIVE, above, siblings).verdict == "holds"
        assert decided(FIVE, below, siblings).verdict == "undecided"
        assert decided(-FIVE, siblings * above, siblings).verdict == "fails"
        assert decided(-FIVE, siblings * below, siblings).verdict == "undecided"
        for margins, expected in ((FIVE, p), (-FIVE, siblings * p)):
            clause = decided(margins, 0.02, siblings)
            assert clause.p == pytest.approx(expected)
            assert (clause.level, clause.method) == (0.02, T_TEST)


def test_the_interval_and_the_margins_are_those_of_the_test() -> None:
    clause = decided(FIVE, seeds=(3, 1, 4, 7, 5))
    tested = mean_test(FIVE, FINEST)
    assert (clause.low, clause.high) == (tested.low, tested.high)
    assert clause.margins == {3: 0.2, 1: 0.3, 4: 0.1, 7: 0.25, 5: 0.15}
    assert clause.n == 5
    assert clause.margin == pytest.approx(0.2)
    assert clause.spread == pytest.approx(FIVE.std(ddof=1))


def test_whatever_the_count_of_seeds_agreement_of_all_of_them_decides_either_way() -> None:
    draw = np.random.default_rng(1)
    for count in range(6, 21):
        for rivals, siblings in ((1, 14), (5, 4)):  # the scheduler's, and what is best
            margins = 1 + 0.01 * draw.normal(size=(count, rivals))
            assert decided(margins, FINEST, siblings).verdict == "holds"
            assert decided(-margins, FINEST, siblings).verdict == "fails", f"{count} seeds, {rivals} rivals"


# Ties


@pytest.mark.parametrize("count", [1, 2, 4, 12])
@pytest.mark.parametrize(("tie_holds", "verdict"), [(True, "holds"), (False, "fails")])
def test_no_difference_at_any_seed_is_of_the_side_that_gets_ties(count: int, tie_holds: bool, verdict: str) -> None:
    sure = 2.0**-count  # as sure as signs that all agree; one seed is no test
    assert decided(np.zeros(count), sure, 1, tie_holds=tie_holds).verdict == verdict
    # up to rounding: an accuracy of 0.646 is 0.01 from one of 0.636
    assert decided([0.646 - 0.636 - 0.01] * count, sure, 1, tie_holds=tie_holds).verdict == verdict
    too_few = decided(np.zeros(count), 0.9 * sure, 1, tie_holds=tie_holds).verdict
    assert too_few == (verdict if count == 1 else "undecided")


def test_a_tie_with_one_rival_and_a_lead_over_another() -> None:
    both = np.stack([FIVE + 1, np.zeros(5)], axis=1)
    assert decided(both, 0.1).verdict == "fails"
    assert decided(both, 0.1).rival == "B"
    held = decided(both, 0.1, tie_holds=True)
    assert held.verdict == "holds"
    assert held.rival == "B"  # five signs that agree are the less sure of the two


def test_a_tie_at_most_seeds_is_tested_like_any_margin() -> None:
    assert decided([0, 0, 0, 0.1], tie_holds=True).verdict == "undecided"
    assert decided([0, 0, 0, -0.1], tie_holds=True).verdict == "undecided"
    assert decided([0, 0, 0, 0.1]).p == mean_test([0, 0, 0, 0.1], FINEST).above


# One seed


@pytest.mark.parametrize(
    ("margin", "tie_holds", "verdict"),
    [(0.1, False, "holds"), (-0.1, False, "fails"), (-0.1, True, "fails"), (0.0, True, "holds"), (0.0, False, "fails")],
)
def test_one_seed_is_judged_by_sign_and_says_so(margin: float, tie_holds: bool, verdict: str) -> None:
    clause = decided([margin], 1e-9, 14, tie_holds=tie_holds)
    assert (clause.verdict, clause.method, clause.n) == (verdict, SIGN, 1)
    assert math.isnan(clause.p)
    assert (clause.low, clause.high) == (-math.inf, math.inf)
    assert clause.describe().endswith(f"margin {margin:+.4f}, one seed: no interval")
    assert clause.needed is None


def test_one_seed_against_several_rivals_is_judged_by_its_worst() -> None:
    clause = decided([[0.3, -0.1, 0.2]])
    assert (clause.verdict, clause.margin, clause.rival) == ("fails", -0.1, "B")
    assert decided([[0.3, 0.1, 0.2]]).verdict == "holds"


# What can not be tested


@pytest.mark.parametrize("margins", [[-1.0, -2.0, -1.5], [0.5, -0.2, 0.4], [-1.0], [0.0, 0.0, 0.0]])
def test_what_every_seed_contradicts_fails_whatever_its_bounds_say(margins: list[float]) -> None:
    sure = 2.0 ** -len(margins)
    clause = decided(margins, sure, 1, contradicted=True, tie_holds=True)
    assert clause.verdict == "fails"
    if len(margins) > 1:
        assert decided(margins, 0.9 * sure, 1, contradicted=True, tie_holds=True).verdict == "undecided"
    several = np.stack([np.ones(3), [0.5, -0.7, 0.1]], axis=1)
    assert decided(several, contradicted=True).rival == "B"


@pytest.mark.parametrize("bad", [[(1, 0)], [(1, 0), (2, 0)], [(1, 1)]])
def test_a_margin_that_is_no_number_leaves_the_clause_undecided(bad: list[tuple[int, int]]) -> None:
    margins = np.stack([FIVE, FIVE], axis=1)
    for place in bad:
        margins[place] = math.nan
    evidence = evaluate_claim(claimed(margins), FINEST)
    assert evidence.test is None
    assert math.isnan(evidence.holds)
    assert math.isnan(evidence.fails)
    clause = decide(evidence, 1.0, 1)
    assert clause.verdict == "undecided"
    assert clause.n == 5 - len(bad)
    assert all(math.isnan(number) for number in (clause.margin, clause.low, clause.high, clause.p))
    assert clause.describe().endswith(f"a number is missing or not finite for seed {', '.join(str(s) for s, _ in bad)}")


def test_no_number_at_all_is_told_in_one_word() -> None:
    for count in (1, 3):
        clause = decided([math.nan] * count)
        assert (clause.verdict, clause.n) == ("undecided", 0)
        assert clause.note == "a number is missing or not finite for any seed"


# Words


def test_an_undecided_clause_says_what_it_could_have_seen_and_what_would_decide_it() -> None:
    margins = np.array([0.02, -0.03, 0.06, 0.01])
    spread, level = float(margins.std(ddof=1)), 0.01
    for_clause = decided(margins, level, 4)
    seen, needed = smallest_effect(spread, 4, level), seeds_for(0.015, spread, level)
    assert f"4 seeds see a margin of {seen:+.4f} (80% power); about {needed} seeds would" in for_clause.describe()
    # a failure is seen at the level that one of four clauses has
    against = decided(-margins, level, 4)
    seen, more = smallest_effect(spread, 4, level / 4), seeds_for(0.015, spread, level / 4)
    assert more is not None
    assert needed is not None
    assert more > needed
    assert f"4 seeds see a margin of {-seen:+.4f} (80% power); about {more} seeds would" in against.describe()


def test_the_seeds_that_a_message_asks_for_are_those_that_the_clause_names() -> None:
    for sign in (1, -1):
        clause = decided(sign * np.array([0.02, -0.03, 0.06, 0.01]), 0.01, 4)
        assert f"about {clause.needed} seeds would decide this one" in clause.describe()


def test_a_margin_of_nearly_nothing_asks_for_no_count_of_seeds() -> None:
    clause = decided([0.1, -0.1, 0.1, -0.1 + 1e-6])
    assert clause.needed is None
    assert "more than 1000 seeds would decide this one" in clause.describe()


def test_a_decided_clause_and_one_that_is_reported_beside_tell_no_power() -> None:
    assert "power" not in decided(FIVE).describe()
    side_by_side = decided([0.02, -0.03, 0.06, 0.01], gating=False).describe()
    assert side_by_side.startswith("undecided  an-id (for information): a sentence: 0.7 (X); margin +0.0150")
    assert "power" not in side_by_side
    assert "p = " not in side_by_side  # it shares no error with the others
    assert side_by_side.endswith("4 seeds")


def test_a_clause_is_described_in_one_line() -> None:
    text = decided(FIVE, scale=EPOCHS, note="a note").describe()
    assert text.startswith("holds      an-id: a sentence: 0.7 (X); margin +0.20 epochs, 95% interval +0.10 epochs to")
    assert text.endswith("5 seeds, p = 0.0024 by t at level 0.01; a note")
    flips = decided(np.arange(1, 13) / 10)
    assert flips.method == SIGN_FLIPS
    assert "12 seeds, p = 0.00024 by sign flips at level 0.01" in flips.describe()


@pytest.mark.parametrize(
    ("margin", "scale", "text"),
    [
        (math.log(1.25), RATIO, "1.25x"),
        (-math.log(2), RATIO, "0.5x"),
        (1e4, RATIO, "1.01e+304x"),
        (0.0125, DIFFERENCE, "+0.0125"),
        (-1.5, EPOCHS, "-1.50 epochs"),
        (math.nan, RATIO, "unknown"),
    ],
)
def test_margins_are_shown_in_the_readers_units(margin: float, scale: str, text: str) -> None:
    assert format_margin(margin, scale) == text


@pytest.mark.parametrize(("margins", "needed"), [([0.1] * 3, 7), ([-0.1] * 3, 9), ([0.0] * 3, 9)])
def test_without_spread_as_many_seeds_are_asked_for_as_signs_must_agree(margins: list[float], needed: int) -> None:
    clause = decided(margins, 0.01, 4)  # 2**-7 is below 0.01, 2**-9 below a quarter of it
    assert clause.verdict == "undecided"
    assert clause.needed == needed
    assert clause.describe().endswith(f"; about {needed} seeds would decide this one")
    assert decided(margins[:1] * needed, 0.01, 4).verdict != "undecided"
    assert decided(margins[:1] * (needed - 1), 0.01, 4).verdict == "undecided"
