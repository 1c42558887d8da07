"""Drift: how far random projections are from the recorded ones, where no seed is in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvbench.utils.text import number


@dataclass(frozen=True)
class Drift:
    """How far projections of something are from the recorded ones.

    Args:
        column: of what, such as ``train layer4.1`` or ``Model3 outputs``.
        difference: relative: the norm of the difference over that of the recorded ones.
        allowed: how large it may be.
    """

    column: str
    difference: float
    allowed: float

    @property
    def excess(self) -> float:
        """The difference over the allowed one."""
        return self.difference / self.allowed

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return not self.difference <= self.allowed

    @property
    def cells(self) -> tuple[str, str]:
        """The difference and the allowed one, in percent of the recorded size."""
        return f"{number(100 * self.difference, '.2g')}%", f"{number(100 * self.allowed, '.1g')}%"


def drifts(
    fresh: Mapping[str, Sequence[float]], recorded: Mapping[str, Sequence[float]], allowed: float
) -> tuple[Drift, ...]:
    """How far each recorded column is from the fresh one; columns that one of both has alone are not compared."""
    return tuple(
        Drift(column, relative(fresh[column], numbers), allowed)
        for column, numbers in recorded.items()
        if column in fresh
    )


def relative(fresh: Sequence[float], recorded: Sequence[float]) -> float:
    """The norm of the difference over that of the recorded numbers; NaN where a number is missing."""
    if len(fresh) != len(recorded):
        return math.nan
    size, difference = math.hypot(*recorded), math.dist(fresh, recorded)
    return difference / size if size else 0.0 if difference == 0 else math.inf


def by_excess(drifts: Iterable[Drift]) -> list[Drift]:
    """Of each column the farthest, the farthest of all last."""
    farthest: dict[str, Drift] = {}
    for drift in sorted(drifts, key=_farness):
        farthest[drift.column] = drift
    return sorted(farthest.values(), key=_farness)


def _farness(drift: Drift) -> float:
    return math.inf if math.isnan(drift.excess) else drift.excess
