"""Grids: a study on a workload with every combination of some fields' values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kvbench.core.recipe import Recipe
from kvbench.studies.experiment import Experiment, choosable, named, read_value, shown_value
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError
from kvbench.workloads import Workload

MOST = 1000  # cells
USAGE = "several values of at least one field, such as lr=1e-3,3e-3 train_count=1024,4096"


def read_grid(text: str) -> dict[str, tuple[Any, ...]]:
    """Parse values of fields of recipes and workload, those of one field with commas between.

    Raises:
        UserError: as `kvbench.studies.experiment.read_choices`, or a value between two commas is missing.

    Example:
        >>> read_grid("lr=1e-3,3e-3 train_count=1024,none epochs=5")
        {'lr': (0.001, 0.003), 'train_count': (1024, None), 'epochs': (5,)}
    """
    valid = choosable(Recipe, Workload)
    found = {}
    for name, values in named(text, valid).items():
        texts = values.split(",")
        if not all(texts):
            raise UserError(f"Cannot read {name}={values[:40]}: a value is missing beside a comma.")
        found[name] = tuple(read_value(name, value, valid[name]) for value in texts)
    return found


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Args:
        choices: the value of each of the grid's fields.
        experiment: what is trained and judged with them; None where they do not fit together.
        problem: why they do not, a sentence.
    """

    choices: Mapping[str, Any]
    experiment: Experiment | None
    problem: str = ""

    @property
    def name(self) -> str:
        """The values as they are given: ``lr=0.003 train_count=1024``."""
        return " ".join(f"{name}={text}" for name, text in self.texts.items())

    @property
    def texts(self) -> dict[str, str]:
        """The values as they are given, by field."""
        return {name: shown_value(value) for name, value in self.choices.items()}


@dataclass(frozen=True)
class Grid:
    """A study on a workload with every combination of some fields' values.

    Args:
        study: what is claimed.
        workload: on what.
        fields: of recipes and workload, by name: the values to try; one value, by itself or in a list, holds for all.

    Raises:
        UserError: there is no field of a name, no field with several values, a value twice, or one that fits nowhere;
            or there are too many cells.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> grid = Grid(STUDY, WORKLOADS["fractals"], {"lr": (1e-3, 3e-3), "train_count": (1024, 4096), "epochs": 3})
        >>> [cell.name for cell in grid.cells][:2], list(grid.axes)
        (['lr=0.001 train_count=1024 epochs=3', 'lr=0.001 train_count=4096 epochs=3'], ['lr', 'train_count'])
        >>> grid.cells[2].experiment.recipes[0].lr
        0.003
    """

    study: Study
    workload: Workload
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            texts = [shown_value(value) for value in values]
            if not values:
                raise UserError(f"{name} has no values: a grid needs {USAGE}.")
            if twice := [text for text in texts if texts.count(text) > 1]:
                raise UserError(f"{name}={twice[0]} is in the grid twice: choose each value once.")
        if not self.axes:
            raise UserError(f"Nothing varies: a grid needs {USAGE}.")
        if (count := math.prod(map(len, self.values.values()))) > MOST:
            raise UserError(f"The grid has {count:,} cells; at most {MOST:,} are trained: choose fewer values.")
        for name, values in self.values.items():
            for value in values:
                mine = [cell for cell in self.cells if cell.choices[name] is value]
                if not any(cell.experiment for cell in mine):
                    raise UserError(mine[0].problem)

    @cached_property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """The values of each field, numbers in ascending order."""
        found = {}
        for name, given in self.fields.items():
            values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
            numbers = all(isinstance(value, (int, float, type(None))) for value in values)
            # None stands for all there are, so it comes last.
            found[name] = tuple(sorted(values, key=lambda v: (v is None, v or 0))) if numbers else values
        return found

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The fields that have several values, with these as they are given."""
        return {name: tuple(map(shown_value, values)) for name, values in self.values.items() if len(values) > 1}

    @property
    def fixed(self) -> dict[str, str]:
        """The fields that have one, likewise."""
        return {name: shown_value(values[0]) for name, values in self.values.items() if len(values) == 1}

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every combination; the last field changes fastest."""
        found = []
        for values in itertools.product(*self.values.values()):
            choices = dict(zip(self.values, values, strict=True))
            try:
                found.append(Cell(choices, Experiment(self.study, self.workload, choices)))
            except UserError as error:
                found.append(Cell(choices, None, str(error)))
        return tuple(found)
