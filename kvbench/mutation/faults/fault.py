"""`Fault`, and the ways to inject one: patches that are undone when a ``with`` block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.run import Run


class CannotActError(Exception):
    """A fault has nothing to act on: it says what of the study, the workload or the teacher it would need."""


ANY = ("",)  # the study's first student: enough where a fault shows everywhere
MEMORY = ("memory",)


@dataclass(frozen=True)
class Fault:
    """A row of the catalogue.

    Args:
        id: its name.
        description: what goes wrong, in words.
        inject: makes a context in which it does; raises `CannotActError`, then or in what it patches, where there is
            nothing to act on.
        probes: names, groups or tags of students, each for its first student (an empty one for the study's), which it
            should change: trained first, in this order, until one detects it.
        controls: likewise, students that it must not change, with a constant lr.
        touches: likewise, all students that it can change at all; an empty one stands for every student.
        scheduled: it acts on the schedule: its probes are trained with a recipe that has one, others with one without.
        teacher: it acts on the teacher's pass, so banks are extracted with it.
        equivalent: why it changes no result that is compared; empty: a run should detect it.

    Example:
        >>> from unittest.mock import patch
        >>> from kvbench.core import models
        >>> def wide():
        ...     return patch.object(models, "MEMORY_WIDTH", 1024)
        >>> FAULTS["wide-memory"] = Fault("wide-memory", "memories are 1024 wide", wide, probes=("memory",))
    """

    id: str
    description: str
    inject: Callable[[], AbstractContextManager[object]]
    probes: tuple[str, ...] = ANY
    controls: tuple[str, ...] = ()
    touches: tuple[str, ...] = ANY
    scheduled: bool = False
    teacher: bool = False
    equivalent: str = ""

    def probed(self, configurations: Sequence[Configuration]) -> tuple[str, ...]:
        """The configurations that it should change; none where the study has no student that it is about."""
        return _first(configurations, self.probes, scheduled=self.scheduled)

    def touched(self, configurations: Sequence[Configuration]) -> tuple[str, ...]:
        """All configurations that it can change."""
        rows = [row for row in configurations if not self.scheduled or _scheduled(row)]
        return tuple(row.id for row in rows if {*self.touches} & _labels(row))

    def controlled(self, configurations: Sequence[Configuration]) -> tuple[str, ...]:
        """The configurations that it must not change."""
        return _first(configurations, self.controls, scheduled=False)


def _scheduled(row: Configuration) -> bool:
    return row.recipe.schedule != "constant"


def _labels(row: Configuration) -> set[str]:
    return {"", row.student.name, row.student.group, *row.student.tags}


def _first(configurations: Sequence[Configuration], labels: Sequence[str], *, scheduled: bool) -> tuple[str, ...]:
    """Of each group or tag the first configuration, with a schedule or without."""
    rows = [row for row in configurations if _scheduled(row) == scheduled]
    found = []
    for label in labels:
        found += [row.id for row in rows if label in _labels(row)][:1]
    return tuple(found)


def patched(target: Any, name: str, new: Any) -> Callable[[], AbstractContextManager[object]]:
    """Replace an attribute of a module or class by ``new``."""
    return lambda: patch.object(target, name, new)


def patched_for(
    fits: Callable[[Recipe], bool], need: str, target: Any, name: str, new: Any
) -> Callable[[], AbstractContextManager[object]]:
    """Replace an attribute as `patched` does, for recipes that have what is patched; others raise `CannotActError`."""

    def check(run: Run) -> None:
        if not fits(run.configuration.recipe):
            raise CannotActError(f"the recipe {run.configuration.recipe.name} has no {need}")

    @contextmanager
    def inject() -> Iterator[None]:
        with after_init(check)(), patched(target, name, new)():
            yield

    return inject


def after_init(change: Callable[[Run], object]) -> Callable[[], AbstractContextManager[object]]:
    """Change every `Run` once it is made."""
    original = Run.__init__

    def init(self: Run, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        change(self)

    return patched(Run, "__init__", init)


def with_recipe(change: Callable[[Recipe], Recipe]) -> Callable[[], AbstractContextManager[object]]:
    """Train every `Run` with another recipe, under the same name."""
    original = Run.__init__

    def init(self: Run, configuration: Configuration, *arguments: Any, **options: Any) -> None:
        original(self, replace(configuration, recipe=change(configuration.recipe)), *arguments, **options)

    return patched(Run, "__init__", init)


def with_banks(
    change: Callable[[FeatureBank, FeatureBank], tuple[FeatureBank, FeatureBank]],
) -> Callable[[], AbstractContextManager[object]]:
    """Hand every `Run` other banks: ``change`` takes those of training and of validation."""
    original = Run.__init__

    def init(self: Run, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int) -> None:
        original(self, configuration, *change(train, val), seed)

    return patched(Run, "__init__", init)


def with_features(change: Callable[[FeatureBank], FeatureBank]) -> Callable[[], AbstractContextManager[object]]:
    """Change both splits' banks in the same way."""
    return with_banks(lambda train, val: (change(train), change(val)))
