"""Trainings by a function of the user's: rows, random numbers, and each way in which a function can be wrong."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kvbench.core.custom import CustomRun, CustomTraining, TrainFunction
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.student import Student
from kvbench.utils.errors import UserError

CPU = torch.device("cpu")
LINEAR = Configuration(Student("linear"), Recipe(epochs=3))
Row = Mapping[str, Any]


def drawn(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
    """Rows of random numbers, from all three global generators."""
    for _ in range(configuration.recipe.epochs):
        yield {"train_loss": float(torch.rand(())), "val_loss": np.random.rand() + random.random()}


def training(function: TrainFunction, *seeds: int) -> CustomTraining:
    return CustomTraining(LINEAR, function, seeds or (0,), CPU)


def rows(*values: Any) -> TrainFunction:
    """A function that yields just these."""
    return lambda configuration, seed, device: iter(values)


def losses(found: CustomTraining) -> dict[int, list[float]]:
    return {run.seed: [row["train_loss"] for row in run.history] for run in found.runs}


def test_each_seed_has_a_row_for_each_epoch_with_every_column() -> None:
    found = training(drawn, 0, 1)
    found.finish()
    assert [(row["seed"], row["epoch"]) for row in found.history] == [(s, e) for s in (0, 1) for e in (1, 2, 3)]
    first = found.history[0]
    assert list(first) == ["configuration", "seed", "epoch", "train_loss", "val_loss", "val_accuracy", "agreement",
                           "seconds"]  # fmt: skip
    assert (first["configuration"], first["val_accuracy"], first["agreement"]) == ("linear", None, None)
    assert first["seconds"] > 0
    found.epoch()
    assert len(found.history) == 6, "after the last epoch nothing is trained"


def test_seeds_draw_numbers_of_their_own_whoever_is_trained_beside_them() -> None:
    together, alone = training(drawn, 0, 1), training(drawn, 1)
    together.finish()
    torch.rand(7)
    alone.finish()
    assert losses(together)[1] == losses(alone)[1] != losses(together)[0]


def test_seconds_of_the_functions_own_are_kept() -> None:
    found = training(rows(*[{"train_loss": 1, "seconds": 7}] * 3))
    found.finish()
    assert [row["seconds"] for row in found.history] == [7, 7, 7]


def test_a_function_that_yields_without_gradients_leaves_them_to_the_next_seed() -> None:
    def function(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
        weight = torch.ones((), requires_grad=True)
        for _ in range(3):
            loss = weight.square()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                yield {"train_loss": loss.item()}

    training(function, 0, 1).finish()
    assert torch.is_grad_enabled()


def test_what_a_function_holds_is_released_after_its_last_row() -> None:
    released = []

    def function(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
        try:
            while True:
                yield {"train_loss": 1.0}
        finally:
            released.append(seed)

    training(function, 0, 1).finish()
    assert released == [0, 1]


def fails(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
    yield {"train_loss": 1.0}
    raise ValueError("no such data")


GOOD = {"train_loss": 1.0, "val_accuracy": 0.5}
WRONG: dict[str, tuple[Any, str]] = {
    "raises": (fails, "The train function of linear (seed 4) fails: ValueError: no such data ("),
    "returns nothing": (lambda *_: None, "fails: TypeError: 'NoneType' object is not iterable"),
    "takes nothing": (lambda: iter(()), "fails: TypeError: "),
    "ends early": (rows(GOOD), "The train function of linear (seed 4) ends after 1 of 3 epochs: it must yield a row"),
    "yields None": (rows(None), "yields None; valid is a dictionary with train_loss and any of val_loss, val_accuracy"),
    "yields names": (lambda *_: GOOD, "yields train_loss; valid is a dictionary"),
    "without a loss": (rows({"val_accuracy": 1.0}), "yields {'val_accuracy': 1.0}; valid is a dictionary"),
    "another metric": (rows({"train_loss": 1.0, "val_acuracy": 1.0}), "'val_acuracy'. Did you mean val_accuracy?"),
    "a tensor": (rows({"train_loss": torch.ones(())}), "yields Tensor as train_loss; valid is a number: use float"),
    "a truth": (rows({**GOOD, "val_accuracy": True}), "yields bool as val_accuracy; valid is a number"),
    "no share": (rows(GOOD, {**GOOD, "val_accuracy": 50}),
                 "yields 50 as val_accuracy in epoch 2; valid is a share between 0 and 1."),
    "no number": (rows({**GOOD, "val_accuracy": math.nan}), "yields nan as val_accuracy in epoch 1; valid is a share"),
    "infinite": (rows({**GOOD, "val_loss": math.inf}), "yields inf as val_loss in epoch 1; valid is a finite number"),
    "below 0": (rows({"train_loss": -1.0}), "yields -1.0 as train_loss in epoch 1; valid is a finite number from 0."),
    "diverged": (rows(GOOD, {**GOOD, "train_loss": math.nan}),
                 "The training loss of linear (seed 4) is nan in epoch 2: try a smaller lr."),
    "at times": (rows(GOOD, {"train_loss": 1.0}), "yields val_accuracy in some epochs only: yield the same metrics"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_ends_in_one_sentence(name: str) -> None:
    function, sentence = WRONG[name]
    found = training(function, 4)
    with pytest.raises(UserError, match=re.escape(sentence)):
        found.finish()
    assert found.runs[0].diverged == (name == "diverged")


def test_running_out_of_memory_is_told_as_of_every_training() -> None:
    def function(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield {}

    with pytest.raises(UserError, match=r"memory.*linear with 1 seeds"):
        training(function).finish()


def test_an_interruption_passes_through() -> None:
    def function(configuration: Configuration, seed: int, device: torch.device) -> Iterator[Row]:
        yield GOOD
        raise KeyboardInterrupt

    run = CustomRun(LINEAR, function, 0, CPU)
    run.epoch()
    run.evaluate()
    with pytest.raises(KeyboardInterrupt):
        run.epoch()
    assert run.epochs_done == len(run.history) == 1
