"""When what moved over runs: what the command's own tests, of a study without a finding, do not reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvbench.reference.over_time import over_time
from kvbench.reference.sides import Side
from kvbench.results.saved import Outcome
from tests.support.sides import changed, runs, side


def run(number: int, factor: float = 1.0, *, seeds: int = 5, **facts: Any) -> Side:
    """A run in which the MLP, whose loss is a third lower, has another loss."""
    rows = changed(runs(range(seeds), jitter=1e-5 * number), "mlp", train_loss=factor)
    return side(f"{number}", rows, Outcome.PASSED, **facts)


def diverged(number: int, *, good: bool = False, **factors: float) -> Side:
    """The same where a seed of the MLP has no loss."""
    rows = changed(runs(jitter=1e-5 * number), "mlp", **factors)
    rows.loc[(rows["configuration"] == "mlp") & (rows["seed"] == 2), ["train_loss", "val_loss"]] = math.nan
    return side(f"{number}", rows, Outcome.PASSED if good else Outcome.FAILED)


def listed(*sides: Side) -> list[str]:
    return [f"{event.run} {move}" for event in over_time(sides)[0] for move in event.moves]


def verdicts(*sides: Side) -> list[str]:
    """What is listed of the one clause there is."""
    clause = "mlp-lower (Adam), mlp-linear-loss: "
    return [text.replace(clause, "") for text in listed(*sides) if clause in text]


def numbers(*sides: Side) -> list[str]:
    """What is listed of the MLP's numbers."""
    return [text for text in listed(*sides) if text[2:].startswith(("mlp:", "mlp,"))]


def test_a_verdict_is_listed_once_as_it_turns_and_once_as_it_turns_back() -> None:
    told = listed(run(1), run(2), run(3, 3.0), run(4, 3.0), run(5), run(6))
    assert [text for text in told if "mlp-lower" in text] == [
        "3 mlp-lower (Adam), mlp-linear-loss: holds -> fails",
        "5 mlp-lower (Adam), mlp-linear-loss: fails -> holds",
    ]


def test_a_verdict_that_seeds_no_longer_tell_is_listed_once() -> None:
    noisy = runs(range(5), jitter=0.5)
    told = listed(run(1), side("2", noisy), side("3", noisy), run(4))
    assert [text for text in told if "mlp-lower" in text] == [
        "2 mlp-lower (Adam), mlp-linear-loss: holds -> undecided (not settled)",
        "4 mlp-lower (Adam), mlp-linear-loss: settled again",
    ]


def test_a_clause_goes_with_its_configurations_and_is_there_again() -> None:
    part = runs(range(5), ["linear"])
    told = listed(run(1), side("2", part), side("3", part), run(4, 3.0))
    assert [text for text in told if "mlp-lower" in text] == ["4 mlp-lower (Adam), mlp-linear-loss: holds -> fails"]
    assert told[0] == "2 no longer there: mlp"
    assert "4 there again: mlp" in told


@pytest.mark.parametrize("unknown", [1, 2, 3])
def test_a_run_that_does_not_say_what_it_is_made_from_is_no_new_start(unknown: int) -> None:
    made: list[dict[str, Any]] = [
        {} if number == unknown else {"fingerprints": {"teacher": "a"}} for number in (1, 2, 3)
    ]
    sides = [run(number, 1.2 if number == 3 else 1.0, **facts) for number, facts in enumerate(made, 1)]
    assert {text.partition(", ")[0] for text in listed(*sides)} == {"3 mlp"}


def test_what_all_together_show_is_listed_once() -> None:
    names = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh"]
    before, after = (runs(seeds, names) for seeds in (range(8), range(8, 16)))
    for metric in ("train_loss", "val_loss"):
        after[metric] *= 1.015
    told = listed(side("1", before), side("2", after), side("3", after), side("4", after))
    assert [text for text in told if "all together" in text]
    assert {text[0] for text in told} == {"2"}


def test_a_configuration_that_joins_later_is_timed_against_its_own_first_run() -> None:
    rows = runs(range(5), ["linear", "mlp", "convolutional"])
    first = rows[rows["configuration"] != "convolutional"]
    slow = changed(rows, "convolutional", seconds=3.0)
    told = listed(side("1", first), side("2", rows), side("3", slow), side("4", slow))
    assert told[0] == "2 new: convolutional"
    assert told[1].startswith("3 convolutional, seconds over the run's mean")
    assert len(told) == 2


def test_gates_of_a_first_run_are_where_it_begins() -> None:
    drifted = replace(run(1), drifted={"mlp": ("train_loss",)})
    within = replace(run(2), drifted={"mlp": ()})
    assert listed(drifted, drifted) == []
    assert listed(drifted, within) == ["2 mlp, gate: DRIFTED: train_loss -> within"]
    assert listed(run(1), replace(drifted, name="2")) == ["2 mlp, gate: not compared -> DRIFTED: train_loss"]


def test_a_verdict_of_one_seed_gives_way_to_one_of_more() -> None:
    told = listed(run(1, seeds=1), run(2, 3.0), run(3, 3.0), run(4))
    assert [text for text in told if "mlp-lower" in text] == [
        "2 mlp-lower (Adam), mlp-linear-loss: holds -> fails (not settled)",
        "4 mlp-lower (Adam), mlp-linear-loss: fails -> holds",
    ]


def test_a_run_that_was_not_timed_is_no_baseline_of_seconds() -> None:
    rows = runs(range(5))
    untimed, slow = rows.assign(seconds=math.nan), changed(rows, "mlp", seconds=3.0)
    told = listed(side("1", untimed), side("2", rows), side("3", slow), side("4", slow))
    assert told
    assert all(text.startswith("3 ") and "seconds over the run's mean" in text for text in told)


LOST = "holds -> undecided, no margin any more (not settled)"


@pytest.mark.parametrize("good", [False, True])
def test_a_run_that_diverged_is_no_baseline_of_a_verdict(good: bool) -> None:
    sides = [run(1), diverged(2, good=good), diverged(3, good=good)]
    assert verdicts(*sides, run(4), run(5), run(6, 3.0), run(7, 3.0)) == [
        f"2 {LOST}",
        "4 settled again",
        "6 holds -> fails",
    ]
    assert verdicts(*sides, run(4, 3.0), run(5, 3.0), run(6)) == [f"2 {LOST}", "4 holds -> fails", "6 fails -> holds"]


def test_a_first_run_that_diverged_is_no_baseline_of_a_verdict() -> None:
    sides = [diverged(1, good=True), diverged(2, good=True), run(3), run(4), run(5, 3.0), run(6, 3.0)]
    assert verdicts(*sides) == ["5 holds -> fails"]
    assert [text for text in listed(*sides) if text.startswith("3 ")] == [
        "3 mlp, train_loss, whole curve: finite now (better)",
        "3 mlp, train_loss, last epoch: finite now (better)",
        "3 mlp, val_loss, last epoch: finite now (better)",
    ]


def test_a_verdict_that_was_undecided_does_not_move_as_a_seed_diverges() -> None:
    noisy = side("1", runs(range(5), jitter=0.5))
    assert [clause.verdict for clause in noisy.reference.judgements] == ["undecided"]
    assert verdicts(noisy, diverged(2), noisy, diverged(4), diverged(5)) == []


@pytest.mark.parametrize("good", [False, True])
def test_a_number_that_is_lost_is_held_against_what_it_was_when_it_returns(good: bool) -> None:
    lost = "2 mlp: 3 numbers: no longer finite (worse)"
    sides = [run(1), diverged(2, good=good), diverged(3, good=good)]
    assert numbers(*sides, run(4), run(5)) == [lost, "4 mlp: settled again"]
    first, *moved, last = numbers(*sides, run(4, 1.5), run(5, 1.5))
    assert (first, last) == (lost, "4 mlp: settled again")  # as its other loss is where it was
    assert [text.partition(": +50.0")[0] for text in moved] == [
        "4 mlp, train_loss, whole curve",
        "4 mlp, train_loss, last epoch",
    ]


def test_what_a_student_that_diverged_still_has_moves_once() -> None:
    low = [diverged(number, val_accuracy=0.5) for number in (2, 3)]
    found = numbers(run(1), *low, side("4", changed(runs(jitter=4e-5), "mlp", val_accuracy=0.5)))
    assert [text.partition(", last")[0] for text in found] == [
        "2 mlp, val_accuracy",
        "2 mlp: 3 numbers: no longer finite (worse)",
        "4 mlp: settled again",
    ]


def test_a_student_that_diverged_does_not_hide_what_all_others_together_show() -> None:
    names = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh", "iiiiiiiii"]
    before, after = (runs(seeds, names) for seeds in (range(8), range(8, 16)))
    for metric in ("train_loss", "val_loss"):
        after[metric] *= 1.015
        after.loc[(after["configuration"] == names[-1]) & (after["seed"] == 9), metric] = math.inf
    found = listed(side("1", before), side("2", after), side("3", after))
    assert f"2 {names[-1]}: 3 numbers: no longer finite (worse)" in found
    assert [text for text in found if "all together" in text]
    assert {text[0] for text in found} == {"2"}


def test_what_all_together_show_does_not_make_a_move_of_what_seeds_never_told() -> None:
    names = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg", "hhhhhhhh", "iiiiiiiii"]
    sides = []
    for number, factor in ((1, 1.0), (2, 1.02), (3, 1.02), (4, 1.02)):
        rows = runs(range(8 * number, 8 * number + 8), names)
        wide = (rows["configuration"] == names[-1]) * (rows["seed"] % 8 - 3.5)
        for metric in ("train_loss", "val_loss"):
            rows[metric] *= factor * np.exp(wide)
        sides.append(side(f"{number}", rows))
    events, remarks = over_time(sides)
    assert [event.run for event in events] == ["2"]
    assert {move.what.partition(",")[0] for move in events[0].moves} == {"all together"}
    assert len(remarks) == 1
    assert "iiiiiiiii (3 numbers)" in remarks[0]


def test_a_loss_that_no_seed_had_at_first_is_held_against_the_first_run_that_has_it() -> None:
    first = side("1", runs().assign(val_loss=math.inf))
    found = numbers(first, run(2), side("3", changed(runs(), "mlp", val_loss=1.5)))
    assert [text.partition(": +50.0")[0] for text in found] == ["3 mlp, val_loss, last epoch"]


def test_seconds_that_are_no_number_are_no_baseline() -> None:
    rows = runs(range(5))
    slow = changed(rows, "mlp", seconds=3.0)
    for seconds in (0.0, math.inf):
        found = listed(side("1", changed(rows, "mlp", seconds=seconds)), side("2", rows), side("3", slow))
        assert found
        assert all(text.startswith("3 ") and "seconds over the run's mean" in text for text in found)


def test_runs_of_one_seed_do_not_move_and_that_they_tell_little_is_said_once() -> None:
    one = [run(number, seeds=1) for number in (1, 2, 3)]
    assert over_time(one) == (
        [],
        ["Too few seeds to tell, in all runs made like 3: linear (5 numbers), mlp (5 numbers)."],
    )
    events, remarks = over_time([*one, run(4), run(5)])
    assert (events, remarks) == ([], [])


def test_numbers_that_seeds_told_and_no_longer_tell_are_listed_once_and_as_they_tell_again() -> None:
    noisy = runs(jitter=2.0).assign(val_accuracy=0.5, agreement=0.5)
    level = [
        side(f"{number}", runs(jitter=1e-5 * number).assign(val_accuracy=0.5, agreement=0.5)) for number in (1, 2, 5)
    ]
    found = numbers(*level[:2], side("3", noisy), side("4", noisy), level[2])
    assert len(found) == 2
    assert found[0].startswith("3 mlp: ")
    assert found[0].endswith("too few seeds to tell (not settled)")
    assert found[1] == "5 mlp: settled again"
