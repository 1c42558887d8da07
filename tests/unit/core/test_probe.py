"""Probes: what a student computes and learns from fixed numbers, whatever its seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.probe import probe
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.student import Student
from kvbench.studies.kv_memory import STUDY

CPU = torch.device("cpu")
WIDTHS = (8, 16, 16)
RECIPE = Recipe(lr=1e-2, weight_decay=1e-3)


def configuration(**changes: Any) -> Configuration:
    return Configuration(STUDY.student("Model3"), replace(RECIPE, **changes))


def away(one: list[float], other: list[float]) -> float:
    return math.dist(one, other) / math.hypot(*one)


def test_no_seed_or_state_of_any_generator_is_in_a_probe() -> None:
    torch.manual_seed(5)
    first = probe(configuration(), WIDTHS, 10, CPU)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn), "nothing was drawn from the user's generator"
    assert probe(configuration(), WIDTHS, 10, CPU) == first
    assert len(first["outputs"]) == 4
    assert all(first.values())


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"lr": 1.05e-2}, 0.05),
        ({"weight_decay": 0.0}, 1e-3),
        ({"optimizer": "AdamW"}, 1e-3),
        ({"loss": "cross_entropy", "target": "labels"}, 0.1),
        ({"temperature": 2.0}, 0.1),
    ],
)
def test_a_recipe_shows_in_what_is_learned_alone(changes: dict[str, Any], moved: float) -> None:
    plain, other = (probe(configuration(**some), WIDTHS, 10, CPU) for some in ({}, changes))
    assert other["outputs"] == plain["outputs"]
    assert away(plain["learning"], other["learning"]) > moved


def test_a_layer_that_is_a_little_different_shows_in_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = probe(configuration(), WIDTHS, 10, CPU)
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))
    assert 1e-5 < away(plain["outputs"], probe(configuration(), WIDTHS, 10, CPU)["outputs"]) < 1e-2


def test_frozen_parameters_are_filled_and_do_not_learn() -> None:
    class Frozen(nn.Module):
        def __init__(self, width: int, classes: int):
            super().__init__()
            self.layer = nn.Linear(width, classes)
            self.layer.bias.requires_grad_(False)

        def forward(self, xs: Sequence[Tensor]) -> Tensor:
            out: Tensor = self.layer(xs[0])
            return out

    student = Student("Frozen", lambda widths, classes: Frozen(widths[0], classes), taps=(-1,))
    assert probe(Configuration(student, RECIPE), WIDTHS, 10, CPU)["learning"][-4:] == [0, 0, 0, 0]


class Noisy(nn.Module):
    """Draws when it is made, or when it is used."""

    drawn: Tensor | None

    def __init__(self, width: int, classes: int, drawn: Tensor | None = None, rate: float = 0.0):
        super().__init__()
        self.layer, self.dropout = nn.Linear(width, classes), nn.Dropout(rate)
        self.register_buffer("drawn", drawn)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.layer(self.dropout(xs[0]))
        return out if self.drawn is None else out + self.drawn


def test_what_seeds_decide_is_left_out() -> None:
    made = {
        "buffer": lambda widths, classes: Noisy(widths[0], classes, torch.rand(classes)),
        "dropout": lambda widths, classes: Noisy(widths[0], classes, rate=0.5),
        "overflow": lambda widths, classes: Noisy(widths[0], classes, torch.full([classes], math.inf)),
    }
    for name, make in made.items():
        found = probe(Configuration(Student(name, make, taps=(-1,)), RECIPE), WIDTHS, 10, CPU)
        assert found == {"outputs": [], "learning": []}, name


def test_of_a_student_that_is_made_from_the_bank_there_is_none() -> None:
    student = Student("Bank", make_from=lambda bank: nn.Linear(1, 1))
    assert probe(Configuration(student, RECIPE), WIDTHS, 10, CPU) == {}


def test_parameters_of_any_shape_are_filled() -> None:
    class Scaled(nn.Module):
        def __init__(self, width: int, classes: int):
            super().__init__()
            self.layer, self.scale = nn.Linear(width, classes), nn.Parameter(torch.tensor(2.0))
            self.cube, self.none = nn.Parameter(torch.ones(2, 1, classes)), nn.Parameter(torch.ones(0, 3))

        def forward(self, xs: Sequence[Tensor]) -> Tensor:
            out: Tensor = self.layer(xs[0]) * self.scale + self.cube.sum((0, 1)) + self.none.sum()
            return out

    student = Student("Scaled", lambda widths, classes: Scaled(widths[0], classes), taps=(-1,))
    found = probe(Configuration(student, RECIPE), WIDTHS, 10, CPU)
    assert len(found["learning"]) == 5 * 4
    assert any(found["learning"][:4])
