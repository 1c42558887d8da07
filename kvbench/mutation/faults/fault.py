"""What a fault is, and the ways to inject one: patches that end with a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.trainer import Run

LOSS, LR, MEMORY = ("Model1",), ("lr_Model1",), ("Model3",)  # what to train where a fault shows everywhere, cheaply


@dataclass(frozen=True)
class Fault:
    """A row of the catalogue.

    Args:
        id: its name.
        what: what goes wrong, in words.
        inject: makes a context in which it does.
        probes: configurations that it should move, trained first, in this order, until one is noticed.
        bystanders: configurations that it must not move.
        teacher: it acts on the teacher's pass, so banks are made with it.
        unseen: why no comparison of results can see it; empty: it should be seen.
    """

    id: str
    what: str
    inject: Callable[[], AbstractContextManager[object]]
    probes: tuple[str, ...] = LOSS
    bystanders: tuple[str, ...] = ()
    teacher: bool = False
    unseen: str = ""


def swapped(target: Any, name: str, new: Any) -> Callable[[], AbstractContextManager[object]]:
    """Put ``new`` in the place of an attribute of a module or class."""
    return lambda: patch.object(target, name, new)


def after_init(change: Callable[[Run], object]) -> Callable[[], AbstractContextManager[object]]:
    """Change every `Run` once it is made."""
    made = Run.__init__

    def init(self: Run, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        change(self)

    return swapped(Run, "__init__", init)


def with_recipe(change: Callable[[Recipe], Recipe]) -> Callable[[], AbstractContextManager[object]]:
    """Train every `Run` with another recipe than it is told, under the same name."""
    made = Run.__init__

    def init(self: Run, configuration: Configuration, *arguments: Any, **options: Any) -> None:
        made(self, replace(configuration, recipe=change(configuration.recipe)), *arguments, **options)

    return swapped(Run, "__init__", init)


def with_banks(
    change: Callable[[FeatureBank, FeatureBank], tuple[FeatureBank, FeatureBank]],
) -> Callable[[], AbstractContextManager[object]]:
    """Hand every `Run` other banks: ``change`` takes those of training and of validation."""
    made = Run.__init__

    def init(self: Run, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int) -> None:
        made(self, configuration, *change(train, val), seed)

    return swapped(Run, "__init__", init)


def with_features(change: Callable[[FeatureBank], FeatureBank]) -> Callable[[], AbstractContextManager[object]]:
    """Change both splits' banks in the same way."""
    return with_banks(lambda train, val: (change(train), change(val)))
