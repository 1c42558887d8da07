"""A study: all that is claimed, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.student import Student
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import check_name

if TYPE_CHECKING:
    from kvbench.core.custom import TrainFunction


@dataclass(frozen=True)
class Study:
    """An ablation and what is claimed about it: students, recipes, findings, and where its references lie.

    Args:
        name: as in ``--kvbench-study``.
        title: what it is called in reports.
        students: what is compared; each is trained with each recipe.
        recipes: how they are trained, in the order of the tables.
        findings: what is claimed.
        workloads: by name, fields of recipes and workload that differ there, such as ``{"fractals": {"lr": 1e-3}}``.
            On other workloads nothing differs.
        source, link: who claims it, and where to read it.
        focus: the group whose best student tables mark, beside the best of all; empty: none.
        folder: where its references lie, below ``--kvbench-expected``; None: its name.
        shipped: whether its references come with kvbench.
        train: for an ablation without a teacher, what trains a configuration with a seed on a device: a generator of
            history rows, one an epoch, with any of the history frame's metrics.

    Raises:
        UserError: two students, recipes, findings or configurations cannot be told apart by name.

    Example:
        >>> linear = Student("linear", lambda widths, classes: torch.nn.Linear(widths[0], classes))
        >>> Study("mine", "One linear head", (linear,), (Recipe(epochs=3),)).configurations()[0].id
        'linear'
    """

    name: str
    title: str
    students: tuple[Student, ...]
    recipes: tuple[Recipe, ...] = (Recipe(),)
    findings: tuple[Finding, ...] = ()
    workloads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""
    link: str = ""
    focus: str = ""
    folder: str | None = None
    shipped: bool = False
    train: TrainFunction | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "The name of a study")
        if self.references:
            check_name(self.references, f"The folder of the references of {self.name}")
        parts: tuple[tuple[str, Any, type], ...] = (
            ("students", self.students, Student),
            ("recipes", self.recipes, Recipe),
            ("findings", self.findings, Finding),
        )
        for kind, rows, row_type in parts:
            if not (isinstance(rows, (tuple, list)) and all(isinstance(row, row_type) for row in rows)):
                valid = row_type.__name__
                raise UserError(
                    f"The study {self.name} has {kind} that are no tuple of them; valid is ({valid}(...),)."
                )
        for kind, rows, _ in parts[:2]:
            if not rows:
                raise UserError(f"The study {self.name} has no {kind}; valid is one or more.")
            if twice := _twice(row.name for row in rows):
                raise UserError(f"The study {self.name} has two {kind} called {twice}: give one another name.")
        if self.train is None and (unmade := [row.name for row in self.students if not (row.make or row.make_from)]):
            raise UserError(f"The student {unmade[0]} needs one of make and make_from.")
        names = [*(one.id for one in self.configurations()), *(finding.id for finding in self.findings)]
        if twice := _twice(names):
            raise UserError(
                f"In the study {self.name}, {twice} is the name of two configurations, findings, or one of each: give"
                " the student or the finding another name. A recipe's configurations are called"
                f" {' and '.join(recipe.configuration for recipe in self.recipes)}."
            )
        _ = self.design  # which refuses a finding that names what is not there

    def configurations(self, recipes: Sequence[Recipe] = ()) -> list[Configuration]:
        """Every student with every recipe, in the order of the tables; with other ``recipes`` than its own."""
        return [Configuration(student, recipe) for recipe in recipes or self.recipes for student in self.students]

    @property
    def references(self) -> str:
        """The folder of its references, below ``--kvbench-expected``."""
        return self.name if self.folder is None else self.folder

    @cached_property
    def design(self) -> Design:
        """What its findings range over."""
        groups: dict[str, dict[str, None]] = {}  # ordered, each student once
        for labels in ([(row.group,) for row in self.students], [row.tags for row in self.students]):
            for row, names in zip(self.students, labels, strict=True):
                for name in filter(None, names):
                    groups.setdefault(name, {})[row.name] = None
        return Design(
            self.name,
            {
                recipe.name: {one.student.name: one.id for one in self.configurations([recipe])}
                for recipe in self.recipes
            },
            {name: tuple(students) for name, students in groups.items()},
            {finding.id: finding for finding in self.findings},
            self.focus,
            (self.references or ".") if self.shipped else "",
            {name: self._differences(changes) for name, changes in self.workloads.items()},
        )

    @cached_property
    def rehearsed(self) -> Design:
        """Its design, once every finding is known to be one that a run can judge; raises `UserError` else."""
        self.design.rehearse()
        return self.design

    def _differences(self, changes: Mapping[str, Any]) -> str:
        """How fields of the recipes differ on a workload, in words."""
        usual = {
            name: _shown({getattr(recipe, name) for recipe in self.recipes if hasattr(recipe, name)})
            for name in changes
        }
        return ", ".join(f"{name} {_shown([changes[name]])} instead of {text}" for name, text in usual.items() if text)

    def student(self, name: str) -> Student:
        """Look a student up; raises `UserError` naming the valid ones."""
        rows = {row.name: row for row in self.students}
        if name not in rows:
            raise unknown("student", name, rows)
        return rows[name]


def _shown(values: Iterable[object]) -> str:
    return " and ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _twice(names: Iterable[str]) -> str:
    """The first of the names that is there more than once; empty if none is."""
    return next((name for name, count in Counter(names).items() if count > 1), "")
