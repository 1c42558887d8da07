"""The design of an ablation: all that findings, references and reports know of a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from kvbench.findings.curves import EVERYONE, Curves
from kvbench.findings.finding import Finding
from kvbench.results.history import METRICS
from kvbench.utils.errors import UserError, unknown


@dataclass(frozen=True)
class Design:
    """Which configurations there are, what they are compared as, and which findings are judged. No torch.

    Args:
        study: its name.
        configurations: name of each recipe -> name of each student -> what that configuration is called.
        groups: name of each group or tag -> its students.
        findings: by id.
        focus: the group whose best student tables mark, beside the best of all; empty: none.
        shipped: folder of the references that come with it, below kvbench/expected; empty: there are none.
        workloads: how recipes differ from the study's on each workload, in words; empty: they do not.

    Raises:
        UserError: two configurations or a student and a group share a name, or a group or a finding names a student,
            group or recipe that is not there.

    Example:
        >>> design = Design("mine", {"Adam": {"linear": "linear", "mlp": "mlp"}}, {"deep": ("mlp",)})
        >>> design.recipes, design.students, design.members("deep"), design.names
        (('Adam',), ('linear', 'mlp'), ('mlp',), ('linear', 'mlp'))
    """

    study: str
    configurations: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    findings: Mapping[str, Finding] = field(default_factory=dict)
    focus: str = ""
    shipped: str = ""
    workloads: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [name for row in self.configurations.values() for name in row.values()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"The study {self.study} has two configurations called {', '.join(twice)}.")
        if EVERYONE in self.students:
            raise UserError(f"The study {self.study} has a student called {EVERYONE}, which means every student.")
        for group, students in self.groups.items():
            if group in (*self.students, EVERYONE):
                raise UserError(f"The study {self.study} has a group called {group}, which means something else there.")
            for name in students:
                if name not in self.students:
                    raise UserError(f"The group {group}: {unknown('student', name, self.students)}")
        for row in self.findings.values():
            self.scopes(row)

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names of the recipes, in the study's order."""
        return tuple(self.configurations)

    @property
    def students(self) -> tuple[str, ...]:
        """The names of the students, in the study's order."""
        return tuple(dict.fromkeys(student for row in self.configurations.values() for student in row))

    @property
    def names(self) -> tuple[str, ...]:
        """What the configurations are called: recipe by recipe, students in order."""
        return tuple(name for row in self.configurations.values() for name in row.values())

    def members(self, name: str, kind: str = "student or group") -> tuple[str, ...]:
        """The students of a group or tag, of `EVERYONE`, or the one student of that name; raises `UserError`."""
        if name in self.students:
            return (name,)
        if name != EVERYONE and name not in self.groups:
            raise unknown(kind, name, [*self.students, *self.groups])
        return self.students if name == EVERYONE else self.groups[name]

    def finding(self, name: str) -> Finding:
        """Look a finding up; raises `UserError` naming the valid ones."""
        if name not in self.findings:
            raise unknown("finding", name, self.findings)
        return self.findings[name]

    def scopes(self, row: Finding) -> dict[str, tuple[dict[str, str], ...]]:
        """What a finding is judged on -> student -> configuration: of a recipe, or of both of those that it compares.

        A recipe that lacks one of its students is left out. Raises `UserError` for a name that is not there.
        """
        kind = f"student or group in the finding {row.id}"
        students = {student for name in row.names for student in self.members(name, kind)}
        for name in (*row.across, *row.recipes):
            if name not in self.configurations:
                raise unknown(f"recipe in the finding {row.id}", name, self.configurations)
        blocks = {recipe: {student: name for student, name in names.items() if student in students}
                  for recipe, names in self.configurations.items()}  # fmt: skip
        asked = [row.across] if row.across else [(recipe,) for recipe in row.recipes or blocks]
        return {
            " against ".join(recipes): tuple(blocks[recipe] for recipe in recipes)
            for recipes in asked
            if all(len(blocks[recipe]) == len(students) for recipe in recipes)
        }

    def rehearse(self) -> None:
        """Raise `UserError` where a finding cannot be judged whatever is trained, such as a student against itself."""
        for row in self.findings.values():
            for blocks in self.scopes(row).values():
                names = [name for block in blocks for name in block.values()]
                values = {name: np.linspace([[0.1] * 2] * 2, 0.9, len(METRICS), axis=-1) for name in names}
                row.rehearse(Curves(blocks[0], (0, 1), (1, 2), values, (), self.groups, *blocks[1:]))

    def needs(self, row: Finding) -> dict[str, tuple[str, ...]]:
        """What a finding is judged on -> the configurations needed for that; see `scopes`."""
        scopes = self.scopes(row).items()
        return {scope: tuple(name for block in blocks for name in block.values()) for scope, blocks in scopes}

    def find(self, configuration: str) -> tuple[str, str]:
        """Recipe and student of a configuration; no recipe, and its own name, where the study has none of that name."""
        for recipe, row in self.configurations.items():
            for student, name in row.items():
                if name == configuration:
                    return recipe, student
        return "", configuration

    def blocks(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        """Sort configurations: recipe -> student -> configuration, in the study's order, others last under ``""``."""
        ordered = [*(name for name in self.names if name in names), *(name for name in names if name not in self.names)]
        found: dict[str, dict[str, str]] = {}
        for name in ordered:
            recipe, student = self.find(name)
            found.setdefault(recipe, {})[student] = name
        return found
