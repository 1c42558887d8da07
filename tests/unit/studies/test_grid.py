"""Grids: every combination of some fields' values."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.studies.grid import Grid, read_grid
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS

FRACTALS = WORKLOADS["fractals"]


def grid(text: str) -> Grid:
    return Grid(STUDY, FRACTALS, read_grid(text))


def test_the_last_field_changes_fastest_and_numbers_ascend() -> None:
    made = grid("lr=3e-3,1e-3 train_count=none,4096,1024 epochs=5")
    assert made.axes == {"lr": ("0.001", "0.003"), "train_count": ("1024", "4096", "none")}
    assert made.fixed == {"epochs": "5"}
    assert [cell.name for cell in made.cells[:4]] == [
        "lr=0.001 train_count=1024 epochs=5",
        "lr=0.001 train_count=4096 epochs=5",
        "lr=0.001 train_count=none epochs=5",
        "lr=0.003 train_count=1024 epochs=5",
    ]
    (last,) = made.cells[5:]
    assert last.experiment is not None
    assert {(r.lr, r.epochs) for r in last.experiment.recipes} == {(3e-3, 5)}
    assert last.experiment.images.train_count is None
    assert last.experiment.name == "fractals+epochs=5+lr=0.003+train_count=none"


def test_words_stay_in_the_order_in_which_they_are_given() -> None:
    assert grid("optimizer=SGD,Adam").axes == {"optimizer": ("SGD", "Adam")}


def test_values_that_do_not_fit_together_are_a_cell_with_a_sentence() -> None:
    made = grid("loss=kl,cross_entropy target=teacher,labels")
    assert [cell.experiment is None for cell in made.cells] == [False, True, False, False]
    assert made.cells[1].problem.startswith("The loss kl compares logits with logits")


def test_a_value_that_makes_two_recipes_the_same_everywhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"With lr=0\.001 schedule=step two recipes of kv-memory are the same"):
        grid("schedule=step,constant lr=1e-3,3e-3")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"Nothing varies: a grid needs several values"),
        ("lr=1e-3", r"Nothing varies"),
        ("lr=", r"Cannot read the choice 'lr='"),
        ("lr=,1", r"Cannot read lr=,1: a value is missing beside a comma"),
        ("lr=1,,2", r"a value is missing beside a comma"),
        ("lr=1e-3,0.001", r"lr=0\.001 is in the grid twice"),
        ("lr=1 lr=2,3", r"lr is chosen twice"),
        ("lrr=1,2", r"Unknown field 'lrr'\. Did you mean lr\?"),
        ("seeds=1,2", r"Unknown field 'seeds'"),
        ("size=32,big", r"Cannot read size=big: valid is a whole number"),
        ("lr=1,-1", r"has lr -1\.0; valid is a number from 0"),
        ("lr=nan,1", r"has lr nan; valid is"),
        ("epochs=0 lr=1,2", r"has epochs 0; valid is"),
        ("size=1,5000 lr=1,2", r"Images of 5000 pixels a side: valid is"),
        (
            f"lr={','.join(map(str, range(1, 50)))} epochs={','.join(map(str, range(1, 50)))}",
            r"The grid has 2,401 cells; at most 1,000 are trained",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        grid(text)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lr": ()}, "lr has no values"),
        ({"lr": (1e-3, 3e-3), "rate": (1, 2)}, "Unknown field 'rate'"),
        ({"lr": 1e-3, "loss": "kl"}, "Nothing varies"),
    ],
)
def test_python_is_told_likewise(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Grid(STUDY, FRACTALS, fields)
