"""Probes: what a student computes from fixed numbers, its gradients and its optimiser's steps, whatever its seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
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
    assert [*first] == ["outputs", "gradients", "steps"]
    assert len(first["outputs"]) == 4
    assert all(first.values())


@pytest.mark.parametrize(
    ("kind", "changes", "least"),
    [
        ("steps", {"lr": 1.05e-2}, 0.04),
        ("steps", {"weight_decay": 0.0}, 1e-3),
        ("steps", {"optimizer": "AdamW"}, 1e-3),
        ("steps", {"optimizer": lambda groups, **options: torch.optim.Adam(groups, eps=1e-6, **options)}, 5e-4),
        ("gradients", {"loss": "cross_entropy", "target": "labels"}, 0.1),
        ("gradients", {"temperature": 2.0}, 0.1),
    ],
)
def test_a_recipe_shows_in_gradients_or_steps(kind: str, changes: dict[str, Any], least: float) -> None:
    plain, other = (probe(configuration(**some), WIDTHS, 10, CPU) for some in ({}, changes))
    assert other["outputs"] == plain["outputs"]
    assert away(plain[kind], other[kind]) > least


def test_a_layer_that_is_a_little_different_shows_in_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = probe(configuration(), WIDTHS, 10, CPU)
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))
    assert 1e-5 < away(plain["outputs"], probe(configuration(), WIDTHS, 10, CPU)["outputs"]) < 1e-2


def test_frozen_parameters_have_neither_gradients_nor_steps() -> None:
    class Frozen(nn.Module):
        def __init__(self, width: int, classes: int):
            super().__init__()
            self.layer = nn.Linear(width, classes)
            self.layer.bias.requires_grad_(False)

        def forward(self, xs: Sequence[Tensor]) -> Tensor:
            out: Tensor = self.layer(xs[0])
            return out

    student = Student("Frozen", lambda widths, classes: Frozen(widths[0], classes), taps=(-1,))
    found = probe(Configuration(student, RECIPE), WIDTHS, 10, CPU)
    assert found["gradients"][:4] == found["steps"][:4] == [0, 0, 0, 0], "of layer.bias, the first by name"
    assert all(found["gradients"][4:])


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


class Shared(nn.Module):
    """Has frozen tensors that are not its own."""

    def __init__(self, codes: Tensor, classes: int, *, swapped: bool = False):
        super().__init__()
        if swapped:
            self.layer = nn.Linear(len(codes), classes)
        self.codes = codes if isinstance(codes, nn.Parameter) else nn.Parameter(codes, requires_grad=False)
        self.mask = nn.Parameter(torch.ones(classes, dtype=torch.bool), requires_grad=False)
        if not swapped:
            self.layer = nn.Linear(len(codes), classes)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.layer(xs[0] @ self.codes.T) * self.mask
        return out


def shared(codes: Tensor, **options: bool) -> Configuration:
    return Configuration(Student("Shared", lambda _, classes: Shared(codes, classes, **options), taps=(-1,)), RECIPE)


@pytest.mark.parametrize("parameter", [False, True])
def test_nothing_that_a_student_shares_is_written_into(*, parameter: bool) -> None:
    codes = torch.rand(4, 16)
    held = codes.clone()
    codes = nn.Parameter(codes, requires_grad=False) if parameter else codes
    assert all(probe(shared(codes), WIDTHS, 10, CPU).values())
    assert torch.equal(codes, held)


def test_a_frozen_table_in_a_read_only_file_is_read_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.ones((4, 16), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of tensors that cannot be written into
        codes = torch.from_numpy(np.load(tmp_path / "codes.npy", mmap_mode="r"))
    assert all(probe(shared(codes), WIDTHS, 10, CPU).values())


def test_the_order_of_parameters_is_no_part_of_it() -> None:
    one, other = (probe(shared(torch.rand(4, 16), swapped=swapped), WIDTHS, 10, CPU) for swapped in (False, True))
    assert one == other


def test_a_loss_with_a_state_keeps_it() -> None:
    class Counting:
        calls = 0

        def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
            self.calls += 1
            return (student - teacher).square().mean()

    loss = Counting()
    assert all(probe(configuration(loss=loss), WIDTHS, 10, CPU).values())
    assert loss.calls == 0


def test_a_loss_that_draws_leaves_the_outputs() -> None:
    def noisy(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher + torch.rand_like(student)).square().mean()

    found = probe(configuration(loss=noisy), WIDTHS, 10, CPU)
    assert found["outputs"]
    assert found["gradients"] == []


def test_what_rounding_moves_much_is_left_out() -> None:
    class Half(nn.Module):
        def __init__(self, width: int, classes: int):
            super().__init__()
            self.layer = nn.Linear(width, classes).bfloat16()

        def forward(self, xs: Sequence[Tensor]) -> Tensor:
            out: Tensor = self.layer(xs[0].bfloat16()).float()
            return out

    student = Student("Half", lambda widths, classes: Half(widths[0], classes), taps=(-1,))
    assert probe(Configuration(student, RECIPE), (256, 512, 512), 100, CPU)["outputs"] == []


def test_a_batch_has_as_many_rows_as_the_recipes() -> None:
    class Rows(nn.Module):
        def __init__(self, width: int, classes: int):
            super().__init__()
            self.layer = nn.Linear(width, classes)

        def forward(self, xs: Sequence[Tensor]) -> Tensor:
            assert len(xs[0]) == 96
            out: Tensor = self.layer(xs[0])
            return out

    student = Student("Rows", lambda widths, classes: Rows(widths[0], classes), taps=(-1,))
    assert all(probe(Configuration(student, replace(RECIPE, batch_size=96)), WIDTHS, 10, CPU).values())


def test_what_seeds_decide_is_left_out() -> None:
    made = {
        "buffer": lambda widths, classes: Noisy(widths[0], classes, torch.rand(classes)),
        "dropout": lambda widths, classes: Noisy(widths[0], classes, rate=0.5),
        "overflow": lambda widths, classes: Noisy(widths[0], classes, torch.full([classes], math.inf)),
    }
    for name, make in made.items():
        found = probe(Configuration(Student(name, make, taps=(-1,)), RECIPE), WIDTHS, 10, CPU)
        assert found["outputs"] == found["gradients"] == [], name


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
    assert len(found["steps"]) == 5 * 4
    assert any(found["steps"][:4])
