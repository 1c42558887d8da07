"""Recipes: how a student or a teacher is trained. Plain values, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from kvbench.utils.errors import UserError, need_name, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kvbench.core.student import Student

MOST_EPOCHS = 100_000  # as many as a history may have
MOST_ROWS = 2**31  # of a batch
EVALUATION_BATCH = 1024  # rows of the validation bank at a time
POOLINGS = ("global", "pyramid")  # how taps are pooled
PRECISIONS = ("float32", "bfloat16", "float16")  # of the teacher's pass and of the bank that it leaves; torch's names
SCHEDULES = ("constant", "step", "cosine")  # of the learning rate
LOSSES = ("kl", "cross_entropy", "mse")
TARGETS = ("teacher", "labels")


@dataclass(frozen=True)
class Recipe:
    """How a student is trained: a row of a study's recipes.

    Args:
        name: in tables and verdicts.
        configuration: what its configurations are called, with ``{student}`` in it.
        epochs, batch_size: passes over the training bank, and rows of a step.
        lr, weight_decay: the optimiser's.
        optimizer: a class of ``torch.optim`` by name, or a callable that takes groups of parameters, ``lr`` and
            ``weight_decay`` and returns an optimiser.
        schedule: of lr, stepped once an epoch: ``constant``, ``step`` (times ``gamma`` every ``step_size`` epochs), or
            ``cosine`` (to 0 at the last epoch).
        loss: ``kl`` (of the student's softmax from the target's), ``cross_entropy``, ``mse`` (of logits), or a
            callable from logits (B, K) and the target to a scalar.
        temperature: logits are divided by it before ``kl`` and ``cross_entropy``; the loss is not multiplied.
        target: the ``teacher``'s logits (B, K), or ``labels`` (B,).

    Raises:
        UserError: a value makes no sense; names the field and what is valid.

    Example:
        >>> Recipe(epochs=3, lr=1e-3).schedule
        'constant'
    """

    name: str = "constant lr"
    configuration: str = "{student}"
    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 1e-4
    optimizer: str | Callable[..., torch.optim.Optimizer] = "Adam"
    schedule: str = "constant"
    step_size: int = 2
    gamma: float = 0.5
    loss: str | Callable[[Tensor, Tensor], Tensor] = "kl"
    temperature: float = 1.0
    target: str = "teacher"

    def __post_init__(self) -> None:
        need_name(self.name, "A recipe")
        for field, most in (("epochs", MOST_EPOCHS), ("batch_size", MOST_ROWS), ("step_size", MOST_EPOCHS)):
            value = getattr(self, field)
            _need(self, field, f"a whole number from 1 to {most:,}", type(value) is int and 1 <= value <= most)
        for field in ("gamma", "temperature"):
            _need(self, field, "a number above 0", _number(self, field) and getattr(self, field) > 0)
        for field in ("lr", "weight_decay"):
            _need(self, field, "a number from 0", _number(self, field) and getattr(self, field) >= 0)
        named = isinstance(self.optimizer, str) and self.optimizer.isidentifier()  # torch knows which
        _need(self, "optimizer", "a class of torch.optim by name, or a callable", named or callable(self.optimizer))
        for field, valid in (("schedule", SCHEDULES), ("loss", LOSSES), ("target", TARGETS)):
            value = getattr(self, field)
            if value not in valid and not (field == "loss" and callable(value)):
                raise unknown(field, str(value), valid)
        if self.target == "labels" and self.loss in {"kl", "mse"}:
            raise UserError(
                f"The loss {self.loss} compares logits with logits: with target labels, choose cross_entropy."
            )
        if not ("{student}" in self.configuration and self.configuration.isprintable()):
            raise UserError(f"The configurations of the recipe {self.name} are called {self.configuration!r}; valid is"
                            " a text with {student} in it.")  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its numbers, JSON-serialisable: without what its schedule does not read."""
        unread = {"name", "configuration"} | (set() if self.schedule == "step" else {"step_size", "gamma"})
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in unread}
        return {name: _plain(value) for name, value in values.items()}

    @property
    def chosen(self) -> dict[str, Any]:
        """Its epochs, and what differs from the defaults: of a training loop of the user's, which may read no more."""
        usual = Recipe().facts
        return {
            name: value for name, value in self.facts.items() if name == "epochs" or value != usual.get(name, usual)
        }


def _number(recipe: Recipe, field: str) -> bool:
    value = getattr(recipe, field)
    return isinstance(value, (int, float)) and math.isfinite(value)


def _need(recipe: Recipe, field: str, valid: str, fits: bool) -> None:
    if not fits:
        raise UserError(f"The recipe {recipe.name} has {field} {getattr(recipe, field)!r}; valid is {valid}.")


def _plain(value: object) -> object:
    """A value as JSON has it; a callable by its name."""
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value


def shared_facts(every: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several recipes, by name: once where all agree, else with each recipe's name."""
    found: dict[str, Any] = {}
    for field in dict.fromkeys(field for facts in every.values() for field in facts):
        values = {name: facts[field] for name, facts in every.items() if field in facts}
        if len(values) == len(every) and len({repr(value) for value in values.values()}) == 1:
            found[f"recipe {field}"] = next(iter(values.values()))
        else:
            found |= {f"recipe {field} ({name})": value for name, value in values.items()}
    return found


@dataclass(frozen=True)
class Configuration:
    """A student and a recipe.

    Example:
        >>> linear = Student("linear", lambda widths, classes: torch.nn.Linear(widths[0], classes))
        >>> Configuration(linear, Recipe("StepLR", "step_{student}", schedule="step")).id
        'step_linear'
    """

    student: Student
    recipe: Recipe

    @property
    def id(self) -> str:
        """Its name in tests, tables and histories."""
        return self.recipe.configuration.replace("{student}", self.student.name)


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher is trained: SGD with Nesterov momentum, OneCycle, bf16 autocast, cross-entropy on labels.

    ``count`` images an epoch (None: the whole training split); ``augment`` flips and shifts them.
    """

    epochs: int
    count: int | None = None
    batch_size: int = 256
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = False

    def __post_init__(self) -> None:
        whole = {"epochs": (self.epochs, 1), "count": (self.count or 1, 1), "batch_size": (self.batch_size, 2)}
        for name, (count, least) in whole.items():
            if count < least:
                raise UserError(f"A teacher's recipe has {name} {count}; valid is a whole number from {least}.")
        if not 0 < self.lr < math.inf:
            raise UserError(f"A teacher's recipe has lr {self.lr:g}; valid is a number above 0.")
        if not (0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise UserError(
                f"A teacher's recipe has momentum {self.momentum:g} and weight_decay {self.weight_decay:g}; valid are"
                " a number from 0 to below 1, and one from 0."
            )
