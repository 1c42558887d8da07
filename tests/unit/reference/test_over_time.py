"""When what moved over runs: what the command's own tests, of a study without a finding, do not reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from kvbench.reference.over_time import over_time
from kvbench.reference.sides import Side
from kvbench.results.saved import Outcome
from tests.support.sides import changed, runs, side


def run(number: int, factor: float = 1.0, *, seeds: int = 5, **facts: Any) -> Side:
    """A run in which the MLP, whose loss is a third lower, has another loss."""
    rows = changed(runs(range(seeds), jitter=1e-5 * number), "mlp", train_loss=factor)
    return side(f"{number}", rows, Outcome.PASSED, **facts)


def listed(*sides: Side) -> list[str]:
    return [f"{event.run} {move}" for event in over_time(sides)[0] for move in event.moves]


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
