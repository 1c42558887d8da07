"""What moved between two sides, which way, and when that could not be told."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.design import Design
from kvbench.reference.compare import FAMILY_ERROR
from kvbench.reference.moves import ALL, Moves, VerdictMove, Way, moves
from kvbench.reference.status import Status
from kvbench.reference.tolerances import TOLERANCES, Sample, measure
from kvbench.results.saved import Outcome
from kvbench.utils.errors import UserError
from tests.support.sides import changed, runs, side


def compared(before: pd.DataFrame, after: pd.DataFrame, **options: Any) -> Moves:
    return moves(side("A", before), side("B", after), **options)


def named(found: Moves, way: Way) -> list[tuple[str, str]]:
    return [(move.configuration, move.number) for move in found.of(way)[0]]


def test_equal_runs_have_not_moved() -> None:
    found = compared(runs(), runs())
    assert (found.way, found.exit) == (Way.SAME, 0)
    assert len(found.numbers) == 2 * len(TOLERANCES)
    assert all(move.deviation and move.deviation.paired for move in found.numbers)
    assert found.judged == 1
    assert found.verdicts == []


def test_that_nobody_knows_what_a_side_was_made_from_is_a_note() -> None:
    known, unknown = side("A", runs()), side("B", runs())
    facts = {**known.reference.provenance, "fingerprints": {"teacher": "a"}}
    known = replace(known, reference=replace(known.reference, provenance=facts))
    assert "what B was made from is not known, so data or teacher may differ" in moves(known, unknown).notes


def test_other_seeds_have_not_moved() -> None:
    found = compared(runs(range(12)), runs(range(20, 32)))
    assert found.exit == 0
    assert not any(move.deviation and move.deviation.paired for move in found.numbers)
    assert "A has seeds 0, 1, 2, 3, 4 and 7 more, B has seeds 20, " in found.notes[0]


@pytest.mark.parametrize(
    ("metric", "factor", "numbers"),
    [
        ("train_loss", 1.05, ["train_loss, whole curve", "train_loss, last epoch"]),
        ("val_loss", 1.05, ["val_loss, last epoch"]),
        ("val_accuracy", 0.95, ["val_accuracy, last epoch"]),
        ("agreement", 0.95, ["agreement, last epoch"]),
    ],
)
def test_what_moved_is_named_with_its_way(metric: str, factor: float, numbers: list[str]) -> None:
    before, after = runs(range(8)), changed(runs(range(8), jitter=1e-4), "mlp", **{metric: factor})
    worse = compared(before, after)
    assert named(worse, Way.WORSE) == [("mlp", number) for number in numbers]
    assert (worse.exit, named(worse, Way.BETTER)) == (1, [])
    better = compared(after, before)
    assert named(better, Way.BETTER) == [("mlp", number) for number in numbers]
    assert (better.exit, better.way) == (0, Way.BETTER)


def test_what_is_worse_weighs_more_than_what_is_better_and_what_is_not_settled() -> None:
    after = changed(runs(range(8), jitter=1e-4), "mlp", train_loss=0.9, val_accuracy=0.9)
    both = compared(runs(range(8)), after)
    assert named(both, Way.BETTER)
    assert both.exit == 1
    assert compared(runs(range(8), names=("mlp", "linear", "third")), after).exit == 1


def test_seeds_that_both_have_are_compared_with_themselves() -> None:
    after = changed(runs(range(4, 12), jitter=1e-4), "mlp", train_loss=1.005)
    assert named(compared(runs(range(10)), after), Way.WORSE) == [
        ("mlp", "train_loss, whole curve"),
        ("mlp", "train_loss, last epoch"),
    ]
    as_new = moves(side("A", runs(range(10))), side("B", after, random_numbers="other"))
    assert as_new.exit == 0, "half a standard deviation between seeds"


def test_few_common_seeds_among_many_do_not_cost_the_power_of_all() -> None:
    after = changed(runs(range(8, 18), jitter=1e-4), "mlp", train_loss=1.05)
    found = compared(runs(range(10)), after)
    assert not any(move.deviation.paired for move in found.numbers if move.deviation)
    assert ("mlp", "train_loss, last epoch") in named(found, Way.WORSE)
    both = compared(runs(range(2)), changed(runs(range(2), jitter=1e-7), "mlp", train_loss=1.05))
    assert all(move.deviation.paired for move in both.numbers if move.deviation), "there are no others"


MANY = tuple("abcdefghij"[:length] for length in range(1, 11))  # the numbers are drawn by the length of a name


def test_what_all_configurations_show_too_little_of_is_seen_in_all_together() -> None:
    before, after = runs(range(8), MANY), runs(range(20, 28), MANY)
    after["train_loss"] *= 1.02
    found = compared(before, after)
    assert named(found, Way.WORSE) == [(ALL, "train_loss, whole curve"), (ALL, "train_loss, last epoch")]
    assert found.exit == 1
    (move, _) = found.of(Way.WORSE)[0]
    assert re.fullmatch(
        r"train_loss, whole curve: over all 10 configurations together it is \+\d\.\d+ standard deviations between"
        r" seeds from A; allowed are \d\.\d+ either way",
        move.why,
    )
    assert {*named(found, Way.WORSE)} <= {*named(compared(after, before), Way.BETTER)}
    paired = compared(before, changed(runs(range(8), MANY, jitter=1e-4), "abc", train_loss=1.02))
    assert not any(move.together for move in paired.numbers), "each is compared with itself, which sees more"


@pytest.mark.parametrize("common", [0, 2])
def test_unchanged_runs_rarely_seem_to_have_moved(common: int) -> None:
    alarms = 0
    for trial in range(60):
        first = 1000 * trial
        before, after = (runs(range(start, start + 6), MANY[:3]) for start in (first, first + 6 - common))
        after = runs(range(first + 6 - common, first + 12 - common), MANY[:3], jitter=0.01) if common else after
        alarms += compared(before, after).way in {Way.WORSE, Way.BETTER}
    assert alarms <= 4  # of 0.6 expected, 5 or more come once in three thousand times


def test_one_seed_is_never_settled() -> None:
    for after in (runs([0]), changed(runs([0]), "mlp", train_loss=3)):
        found = compared(runs([0]), after)
        assert {move.deviation.status for move in found.numbers if move.deviation} == {Status.NOT_JUDGED}
        assert found.exit == 3


@pytest.mark.parametrize("fresh", [range(2), range(2, 4)])
def test_seeds_with_equal_accuracies_by_chance_are_not_settled(fresh: range) -> None:
    before, after = runs(range(2)), runs(fresh)
    more = 1 if fresh.start == 0 else 0  # images that the second seed has right; both sides' differ by as many
    for rows, images in ((before, 710), (after, 687)):
        rows["val_accuracy"] = (images + more * (rows["seed"] == 1)) / 1000
    found = compared(before, after)
    assert {move.way for move in found.numbers if move.number == "val_accuracy, last epoch"} == {Way.UNSETTLED}
    assert found.exit == 3


def test_many_seeds_with_equal_accuracies_are_no_chance() -> None:
    found = compared(runs(range(14)).assign(val_accuracy=1.0), runs(range(14, 28)).assign(val_accuracy=0.9))
    assert ("mlp", "val_accuracy, last epoch") in named(found, Way.WORSE)


def test_seeds_too_few_to_see_a_loss_double_are_not_settled() -> None:
    found = compared(runs([0, 1]), runs([2, 3]))
    assert found.exit == 3
    assert ("mlp", "train_loss, last epoch") in named(found, Way.UNSETTLED)


def test_what_only_the_baseline_has_is_not_settled_and_what_only_the_other_has_is_a_note() -> None:
    some = runs(names=["mlp"])
    lost = compared(runs(), some)
    assert (lost.exit, named(lost, Way.UNSETTLED)) == (3, [("linear", "every number")])
    more = compared(some, runs())
    assert more.exit == 0
    assert any("A does not have linear" in note for note in more.notes)
    assert any("1 clauses were judged in B alone" in note for note in more.notes)


def test_a_clause_that_is_no_longer_judged_is_not_among_those_judged_alike() -> None:
    found = compared(runs(), runs())
    assert (found.judged, found.same_clauses) == (1, 1)
    gone = VerdictMove("gone", "Adam", "clause", Way.UNSETTLED, "holds", str(Status.NOT_JUDGED))
    turned = VerdictMove("mlp-lower", "Adam", "clause", Way.WORSE, "holds", "fails")
    assert replace(found, verdicts=[gone]).same_clauses == 1
    assert replace(found, verdicts=[gone, turned]).same_clauses == 0


def test_a_metric_that_is_no_longer_measured_is_not_settled_and_a_new_one_is_not_missed() -> None:
    without = runs().assign(val_loss=math.nan)
    assert named(compared(runs(), without), Way.UNSETTLED) == [
        ("linear", "val_loss, last epoch"),
        ("mlp", "val_loss, last epoch"),
    ]
    assert compared(without, runs()).exit == 0


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_number_that_is_lost_is_worse_and_one_that_is_found_is_better(lost: float) -> None:
    gone = runs()
    gone.loc[gone["configuration"].eq("mlp") & gone["epoch"].eq(3) & gone["seed"].eq(2), "train_loss"] = lost
    found = compared(runs(), gone)
    assert found.exit == 1
    assert named(found, Way.WORSE) == [("mlp", "train_loss, whole curve"), ("mlp", "train_loss, last epoch")]
    assert [move.way for move in found.verdicts] == [Way.WORSE]
    assert ("mlp", "train_loss, last epoch") in named(compared(gone, runs()), Way.BETTER)
    assert compared(gone, gone).exit == 3


def test_a_seed_without_a_pair_that_diverges_is_worse_though_the_pairs_are_alike() -> None:
    gone = runs(range(3, 11), MANY[:3])
    gone.loc[gone["configuration"].eq("abc") & gone["epoch"].eq(3) & gone["seed"].eq(10), "train_loss"] = math.nan
    found = compared(runs(range(8), MANY[:3]), gone)
    assert any(move.deviation.paired for move in found.numbers if move.deviation)
    assert named(found, Way.WORSE) == [("abc", "train_loss, whole curve"), ("abc", "train_loss, last epoch")]
    assert found.exit == 1


def test_missing_seeds_and_epochs_are_not_settled() -> None:
    whole = runs()
    partly = [whole[~(whole["configuration"].eq("mlp") & whole[key].eq(value))] for key, value in
              (("seed", 1), ("epoch", 3))]  # fmt: skip
    for rows in partly:
        for a, b in ((whole, rows), (rows, whole)):
            asked = list(range(5))
            found = moves(side("A", a, seeds=asked), side("B", b, seeds=asked))
            assert named(found, Way.UNSETTLED) == [("mlp", "every number")]
            assert re.search("mlp (lacks|has, beyond)", found.of(Way.UNSETTLED)[0][0].why)


def test_a_verdict_that_no_longer_holds_is_worse_and_one_that_does_again_is_better() -> None:
    before, after = runs(range(8)), changed(runs(range(8)), "mlp", train_loss=2.0)
    (move,) = compared(before, after).verdicts
    assert (move.way, move.before, move.after) == (Way.WORSE, "holds", "fails")
    assert "mlp" in move.evidence
    (move,) = compared(after, before).verdicts
    assert (move.way, move.before, move.after) == (Way.BETTER, "fails", "holds")


def test_a_verdict_that_can_no_longer_be_told_is_not_settled() -> None:
    noisy = runs(range(8), jitter=0.5)
    (move,) = moves(side("A", runs(range(8))), side("B", noisy, random_numbers="other")).verdicts
    assert (move.way, move.before, move.after) == (Way.UNSETTLED, "holds", "undecided")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INCOMPLETE, Outcome.UNKNOWN])
def test_a_run_that_did_not_pass_is_a_baseline_only_where_that_is_said(outcome: Outcome) -> None:
    bad = side("main", runs(), outcome)
    with pytest.raises(UserError, match=r"main is no baseline: .*--allow-failed"):
        moves(bad, side("B", runs()))
    allowed = moves(bad, side("B", runs()), allow_failed=True)
    assert allowed.exit == 0
    assert allowed.notes[0].startswith("main: it ")
    against = moves(side("A", runs()), bad)
    assert against.exit == 0, "what is compared may have failed for any reason, and says so"
    assert against.notes == allowed.notes


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (side("B", runs(), workload="v"), "A is of the workload w, B of v"),
        (side("B", runs(), design=Design("other", {})), "A is of the study pair, B of other"),
        (side("B", runs(), fingerprints={"recipe lr": 2e-3}), r"something else than A.* lr \(0.002, recorded 0.001\)"),
        (side("B", runs(epochs=5)), "cannot be compared: linear: in B, linear has, beyond what is expected"),
        (side("B", runs(epochs=2)), "cannot be compared: linear: in B, linear lacks seed 0, epoch 3"),
        (side("B", runs(names=["third"])), "no configuration in common: linear, mlp; third"),
    ],
)
def test_what_is_not_comparable_is_a_sentence(other: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        moves(side("A", runs(), fingerprints={"recipe lr": 1e-3}), other)


def test_seconds_describe_unless_they_are_asked_to_count() -> None:
    after = changed(runs(), "mlp", seconds=1.5)
    described = compared(runs(), after)
    assert described.exit == 0
    ratio = described.seconds[1].ratio
    assert (ratio.configuration, round(ratio.ratio, 6)) == ("mlp", 1.5)
    assert 1 < ratio.low < 1.5 < ratio.high < 2
    assert compared(runs(), after, slower=1.6).exit == 0
    gated = compared(runs(), after, slower=1.25)
    assert (gated.exit, [move.ratio.configuration for move in gated.of(Way.WORSE)[2]]) == (1, ["mlp"])
    assert compared(after, runs(), slower=1.25).exit == 0
    lost = compared(runs(), after.assign(seconds=math.nan), slower=1.25)
    assert (lost.exit, len(lost.of(Way.UNSETTLED)[2])) == (3, 2)
    elsewhere = side("B", after, hardware="cuda, H100, 8 processors")
    assert moves(side("A", runs(), hardware="cpu, x86_64, 2 processors"), elsewhere, slower=1.25).exit == 3


def test_a_published_table_is_compared_with_itself_where_it_has_epochs() -> None:
    rows = runs([0], epochs=5)
    table = side("table", rows[rows["epoch"].isin([1, 2, 5])], None, epochs_reported=[1, 2, 5])
    assert moves(table, table).exit == 3, "one seed"
    assert moves(table, side("B", rows)).exit == 3


# Seeds against themselves without replicates


def measured(differences: list[float], level: float = 1 - FAMILY_ERROR / 10) -> Status:
    """The status of accuracies of seeds that moved by so much."""
    before = np.linspace(0.5, 0.6, len(differences))[:, None]
    sample = Sample(before + np.array(differences)[:, None], before, before)
    return measure(TOLERANCES[3], [1], sample, level).status


def test_differences_of_seeds_are_held_against_their_own_spread() -> None:
    assert measured([0.0, 0.0]) == Status.WITHIN
    assert measured([-0.05, -0.051, -0.049, -0.05, -0.0505]) == Status.DRIFTED
    assert measured([-0.05, 0.051, -0.049, 0.05, -0.0505]) == Status.WITHIN
    assert measured([-0.0015, -0.0015, -0.0015]) == Status.WITHIN, "below the floor"
    assert measured([0.002, 0.002, 0.002]) == Status.NOT_JUDGED, "one of 500 images, as much as the floor"
    assert measured([-0.05, math.nan]) == Status.NO_NUMBER


def test_no_spread_seen_is_not_no_spread() -> None:
    step = 0.125  # differences that have no rounding
    assert measured([-step] * 3) == Status.NOT_JUDGED
    assert measured([-step] * 12) == Status.DRIFTED


def test_unchanged_seeds_raise_few_alarms() -> None:
    alarms = 0
    for trial in range(100):
        draw = np.random.default_rng(trial)
        before, after = (draw.normal(0.5, 0.01, (6, 1)) for _ in range(2))
        alarms += measure(TOLERANCES[3], [1], Sample(after, before, before), 0.98).status == Status.DRIFTED
    assert alarms <= 7  # of 2 expected, 8 or more come once in a thousand times
