"""Recipes: how a student or a teacher is trained. Plain numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a student is trained, with Adam; the defaults are the source's.

    ``step_size`` and ``gamma`` are StepLR's, stepped once an epoch; ``step_size=None`` keeps lr constant.

    Example:
        >>> Recipe(epochs=3, lr=1e-3)
        Recipe(epochs=3, batch_size=64, lr=0.001, weight_decay=0.0001, step_size=None, gamma=0.5)
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 1e-4
    step_size: int | None = None
    gamma: float = 0.5


EVALUATION_BATCH = 1024  # rows of the validation bank at a time
POOLINGS = ("global", "pyramid")  # how taps are pooled
PRECISIONS = ("float32", "bfloat16")  # of the teacher's pass and of the bank that it leaves; torch's names
SCHEDULED = "lr_"  # prefix of a configuration that is trained with StepLR


@dataclass(frozen=True)
class Configuration:
    """A student and a recipe, named as in the source's tables: ``Model3``, ``lr_Model3``.

    Example:
        >>> Configuration("Model3", Recipe(step_size=2)).id
        'lr_Model3'
    """

    student: str
    recipe: Recipe

    @property
    def id(self) -> str:
        return (SCHEDULED if self.recipe.step_size else "") + self.student


def configurations(students: list[str], recipe: Recipe) -> list[Configuration]:
    """Both recipes of every student, in the source's order: with StepLR (step 2, gamma 0.5) first, then without."""
    scheduled = replace(recipe, step_size=2)
    return [Configuration(s, scheduled) for s in students] + [Configuration(s, recipe) for s in students]


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
