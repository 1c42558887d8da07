"""Features: whether students are given what they were given when the reference was recorded, whatever the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvbench.reference.store import Reference
from kvbench.utils.text import number

# Relative: what platforms' passes may differ by, and several times more (`kvbench.core.bank.ROUNDING`).
ALLOWED = {"float32": 2.0**-14, "bfloat16": 2.0**-5, "float16": 2.0**-8}


@dataclass(frozen=True)
class FeatureDrift:
    """How far a tap's features of a split, or the logits, as a student is given them, are from the recorded ones.

    Args:
        column: which, such as ``train layer4.1`` or ``val logits``.
        difference: of their random projections, relative: the norm of the difference over that of the recorded ones.
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
        """The difference and the allowed one, in percent of the features' size."""
        return f"{number(100 * self.difference, '.2g')}%", f"{number(100 * self.allowed, '.1g')}%"


def compare_features(
    reference: Reference, projections: Mapping[str, Sequence[float]], fingerprints: Mapping[str, Any]
) -> tuple[FeatureDrift, ...]:
    """Compare what a run's students were given with what the recorded ones were given.

    Teacher and images are known by name; this sees what became of them on the way: preprocessing, hooks, pooling,
    precision, which tap, the order of rows. No random numbers are in it, so the least change shows, with new seeds as
    with recorded ones.

    Args:
        reference: what `kvbench.reference.store.load` returns. One without projections says nothing.
        projections: `kvbench.harness.record.projections` of the run; columns that a side lacks are not compared.
        fingerprints: what the run was made from. If teacher or images are others, nothing is compared.

    Example:
        >>> recorded = reference.provenance["projections"]  # doctest: +SKIP
        >>> describe(compare_features(reference, recorded, reference.fingerprints))  # doctest: +SKIP
        ''
    """
    recorded = reference.provenance.get("projections") or {}
    mine, theirs = dict(fingerprints), dict(reference.fingerprints)
    if any(mine.get(name) != theirs[name] for name in theirs if not name.startswith("recipe")):
        return ()
    allowed = ALLOWED.get(str(theirs.get("precision")), ALLOWED["float32"])
    return tuple(
        FeatureDrift(column, _distance(projections[column], numbers), allowed)
        for column, numbers in recorded.items()
        if column in projections
    )


def describe(drifts: Iterable[FeatureDrift]) -> str:
    """One sentence about those that failed, with the farthest; empty if none did. Of a column the farthest counts."""
    farthest: dict[str, FeatureDrift] = {}
    for drift in sorted(drifts, key=_farness):
        farthest[drift.column] = drift
    failed = sorted((drift for drift in farthest.values() if drift.failed), key=_farness)
    if not failed:
        return ""
    *others, worst = failed
    more = f"; so {'is' if len(others) == 1 else 'are'} {len(others)} more of {len(farthest)}" if others else ""
    off, allowed = worst.cells
    return (
        f"Students are not given the recorded features: {worst.column} is {off} of its size away, allowed are"
        f" {allowed}{more}. Look first at preprocessing, hooks, pooling, precision and the order of rows."
    )


def _farness(drift: FeatureDrift) -> float:
    return math.inf if math.isnan(drift.excess) else drift.excess


def _distance(fresh: Sequence[float], recorded: Sequence[float]) -> float:
    """Relative; NaN where a number is missing."""
    if len(fresh) != len(recorded):
        return math.nan
    size, difference = math.hypot(*recorded), math.dist(fresh, recorded)
    return difference / size if size else 0.0 if difference == 0 else math.inf
