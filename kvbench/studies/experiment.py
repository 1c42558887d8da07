"""An experiment: a study on a workload, and the fields of its recipes and of the workload that a user chose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar

from kvbench.core.recipe import Configuration, Recipe, TeacherRecipe, shared_facts
from kvbench.findings.design import Design
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError, unknown
from kvbench.workloads import Workload

LONGEST = 60  # characters of choices in a name
# No numbers, or with options of their own.
FIXED = {"name", "configuration", "seeds", "summary", "layout", "arch", "teacher"}
WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
Row = TypeVar("Row", Recipe, TeacherRecipe, Workload)


def choosable(*rows: type) -> dict[str, tuple[str, ...]]:
    """The fields of dataclasses that can be chosen as text: name -> the types that it has, such as int and None."""
    kinds = {one.name: tuple(str(one.type).split(" | ")) for row in rows for one in fields(row)}
    return {name: kind for name, kind in kinds.items() if kind[0] in WORDS and name not in FIXED}


def read_choices(text: str, *rows: type) -> dict[str, Any]:
    """Parse choices such as ``lr=3e-3 epochs=5``, of the fields of dataclasses.

    Raises:
        UserError: it is no list of ``NAME=VALUE``; there is no field of a name (the nearest are named); a value has
            another type than the field; a name is there twice.

    Example:
        >>> read_choices("lr=3e-3 train_count=none", Recipe, Workload)
        {'lr': 0.003, 'train_count': None}
    """
    valid = choosable(*rows)
    return {name: read_value(name, value, valid[name]) for name, value in named(text, valid).items()}


def named(text: str, valid: Mapping[str, object]) -> dict[str, str]:
    """The texts of ``NAME=VALUE`` by name, each of a ``valid`` one and there once; raises `UserError`."""
    found: dict[str, str] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise UserError(f"Cannot read the choice {part!r}: valid is NAME=VALUE, such as lr=3e-3 epochs=5;"
                            " folders and files stand before the choices.")  # fmt: skip
        if name not in valid:
            raise unknown("field", name, valid)
        if name in found:
            raise UserError(f"{name} is chosen twice: choose one value.")
        found[name] = value
    return found


def read_value(name: str, text: str, kinds: tuple[str, ...]) -> Any:
    """The value of a field that has one of these types; raises `UserError` saying what is valid."""
    if text.casefold() == "none" and "None" in kinds:
        return None
    try:
        if kinds[0] == "bool":
            return {"true": True, "false": False}[text.casefold()]
        return {"int": int, "float": float, "str": str}[kinds[0]](text)
    except (KeyError, ValueError):
        more = " or none" if "None" in kinds else ""
        raise UserError(f"Cannot read {name}={text[:40]}: valid is {WORDS[kinds[0]]}{more}.") from None


def apply(choices: Mapping[str, Any], row: Row) -> Row:
    """A dataclass with those of the chosen fields that it has."""
    names = {one.name for one in fields(row)}
    return replace(row, **{name: value for name, value in choices.items() if name in names})


@dataclass(frozen=True)
class Experiment:
    """What a session trains and judges: a study on a workload.

    Args:
        study: what is claimed.
        workload: on what.
        choices: fields of recipes and workload that differ from the study's own on this workload.

    Raises:
        UserError: a value makes no sense, or makes two recipes the same.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> chosen = Experiment(STUDY, WORKLOADS["fractals"], {"lr": 3e-3, "size": 32})
        >>> chosen.name, chosen.recipes[0].lr, chosen.images.size
        ('fractals+lr=0.003+size=32', 0.003, 32)
    """

    study: Study
    workload: Workload
    choices: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        valid = choosable(Recipe, Workload)
        for name in self._changes:
            if name not in {*valid, "optimizer", "loss", "taps", "seeds"}:
                raise unknown("field", name, valid)
        # Callables are in the facts by their names alone.
        parts = [(recipe.facts, recipe.optimizer, recipe.loss) for recipe in self.recipes]
        _ = self.images  # whose values are checked when it is made
        _ = self.study.rehearsed
        if any(part in parts[:index] for index, part in enumerate(parts)):
            raise UserError(
                f"With {self.described} two recipes of {self.study.name} are the same: choose values in which"
                f" {' and '.join(recipe.name for recipe in self.recipes)} differ."
            )

    @property
    def _usual(self) -> Mapping[str, Any]:
        return self.study.workloads.get(self.workload.name, {})

    @property
    def _changes(self) -> dict[str, Any]:
        return {**self._usual, **self.choices}

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The study's recipes, with what differs."""
        return tuple(apply(self._changes, recipe) for recipe in self.study.recipes)

    @cached_property
    def images(self) -> Workload:
        """The workload, with what differs."""
        return apply(self._changes, self.workload)

    @property
    def changed(self) -> dict[str, Any]:
        """The choices that change something, by name."""
        usual = [apply(self._usual, row) for row in self.study.recipes]
        pairs = [*zip(self.recipes, usual, strict=True), (self.images, apply(self._usual, self.workload))]
        return {
            name: value
            for name, value in sorted(self.choices.items())
            if any(getattr(mine, name, None) != getattr(theirs, name, None) for mine, theirs in pairs)
        }

    @property
    def described(self) -> str:
        """The choices that change something, as they are given: ``lr=0.003 size=32``."""
        return " ".join(f"{name}={shown_value(value)}" for name, value in self.changed.items())

    @property
    def name(self) -> str:
        """The workload's name and what was chosen: what its reference, tables and saves are called."""
        chosen = self.described.replace(" ", "+")
        if len(chosen) > LONGEST:  # a folder's name has an end
            chosen = hashlib.sha256(chosen.encode()).hexdigest()[:16]
        return f"{self.workload.name}+{chosen}" if chosen else self.workload.name

    @property
    def title(self) -> str:
        """The study and what it is run on, for a heading and a file's name."""
        return f"{self.study.references}-{self.name}" if self.study.references else self.name

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Every student with every recipe, in the order of the tables."""
        return self.study.configurations(self.recipes)

    @property
    def design(self) -> Design:
        """What the findings range over."""
        return self.study.design

    @property
    def facts(self) -> dict[str, Any]:
        """What of recipes must agree for runs to be comparable."""
        return shared_facts({recipe.name: self.facts_of(recipe) for recipe in self.recipes})

    def facts_of(self, recipe: Recipe) -> dict[str, Any]:
        """What decides the numbers of a recipe, as far as it is known."""
        return recipe.facts if self.study.train is None else recipe.chosen


def shown_value(value: object) -> str:
    """A field's value as it is given and shown."""
    return str(value).lower() if value is None else str(value).removesuffix(".0")  # all digits of a float
