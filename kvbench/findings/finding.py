"""Findings: a sentence about configurations, and what is needed to judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.clauses import Claim
from kvbench.findings.curves import Curves

RECIPES = {SCHEDULED: "StepLR", "": "constant lr"}  # prefix of a configuration -> name of its recipe
BOTH = "StepLR against constant lr"

Costs = Mapping[str, float | None]  # configuration -> FLOPs per sample; None or absent: unknown


@dataclass(frozen=True)
class Finding:
    """A sentence about configurations, with the function that judges it.

    Args:
        id: its name in options and files.
        sentence: the source's.
        judged_as: the same, made exact.
        students: what it needs, of each recipe that it is judged on.
        claims: from curves and costs to what is claimed.
        compares_recipes: judged once, across both recipes, instead of once for each.

    Example:
        >>> def claims(curves, costs):
        ...     return [curves.last_epoch("val_accuracy", "Model2", ["Model1"], "is above Model1's")]
        >>> Finding("two-beat-one", "two heads beat one", "...", ("Model1", "Model2"), claims).needs()["StepLR"]
        ('lr_Model1', 'lr_Model2')
    """

    id: str
    sentence: str
    judged_as: str
    students: tuple[str, ...]
    claims: Callable[[Curves, Costs], list[Claim]]
    compares_recipes: bool = False

    def needs(self) -> dict[str, tuple[str, ...]]:
        """Name of each recipe that it is judged on -> the configurations needed for that."""
        blocks = {name: tuple(prefix + student for student in self.students) for prefix, name in RECIPES.items()}
        return {BOTH: tuple(c for block in blocks.values() for c in block)} if self.compares_recipes else blocks
