"""Features held against those of a reference: whether students are given what they were given, whatever the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvbench.reference.drift import Drift, by_excess, drifts
from kvbench.reference.store import Reference

# Relative: what platforms' passes may differ by, and several times more (`kvbench.core.bank.ROUNDING`).
ALLOWED = {"float32": 2.0**-14, "bfloat16": 2.0**-5, "float16": 2.0**-8}


def compare_features(
    reference: Reference, projections: Mapping[str, Sequence[float]], fingerprints: Mapping[str, Any]
) -> tuple[Drift, ...]:
    """Compare what a run's students were given with what the recorded ones were given: each tap and the logits.

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
    mine, theirs = dict(fingerprints), dict(reference.fingerprints)
    if any(mine.get(name) != theirs[name] for name in theirs if not name.startswith("recipe")):
        return ()
    allowed = ALLOWED.get(str(theirs.get("precision")), ALLOWED["float32"])
    return drifts(projections, reference.provenance.get("projections") or {}, allowed)


def describe(found: Iterable[Drift]) -> str:
    """One sentence about those that failed, with the farthest; empty if none did. Of a column the farthest counts."""
    ordered = by_excess(found)
    failed = [drift for drift in ordered if drift.failed]
    if not failed:
        return ""
    *others, worst = failed
    more = f"; so {'is' if len(others) == 1 else 'are'} {len(others)} more of {len(ordered)}" if others else ""
    off, allowed = worst.cells
    return (
        f"Students are not given the recorded features: {worst.column} is {off} of its size away, allowed are"
        f" {allowed}{more}. Look first at preprocessing, hooks, pooling, precision and the order of rows."
    )
