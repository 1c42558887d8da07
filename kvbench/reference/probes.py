"""Probes held against those of a reference: whether students compute and learn what they did, whatever the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvbench.reference.drift import Drift, by_excess, differ, relative
from kvbench.reference.store import Reference

# Relative. Other instruction sets moved outputs by at most 1.5e-6 and what is learned by 8e-5: where a gradient is near
# 0, rounding decides the direction of Adam's first step.
ALLOWED = {"outputs": 2.0**-14, "learning": 2.0**-10}
SAID = {
    "outputs": ("does not compute what it did", "outputs", "are", "its layers, activations and what it reads"),
    "learning": ("does not learn as it did", "first steps", "are", "the loss, the optimizer and what is trained"),
}


def compare_probes(
    reference: Reference, probes: Mapping[str, Sequence[float]], fingerprints: Mapping[str, Any]
) -> tuple[Drift, ...]:
    """Compare what students compute from fixed numbers, and how they learn from them, with what is recorded.

    Args:
        reference: what `kvbench.reference.store.load` returns. One without probes says nothing.
        probes: `kvbench.harness.record.probes` of the run; a student that a side lacks is not compared.
        fingerprints: what the run was made from. If anything is another, nothing is compared.

    Example:
        >>> recorded = reference.provenance["probes"]  # doctest: +SKIP
        >>> describe(compare_probes(reference, recorded, reference.fingerprints))  # doctest: +SKIP
        ''
    """
    if differ(fingerprints, reference.fingerprints, recipes=True):
        return ()
    return tuple(
        Drift(column, relative(probes[column], numbers), ALLOWED[_kind(column)])
        for column, numbers in (reference.provenance.get("probes") or {}).items()
        if column in probes and _kind(column) in ALLOWED
    )


def describe(drifts: Iterable[Drift]) -> str:
    """One sentence about the farthest that failed; empty if none did. What is computed decides what is learned."""
    ordered = by_excess(drifts)
    failed = [drift for drift in ordered if drift.failed]
    if not failed:
        return ""
    worst = max(failed, key=lambda drift: (_kind(drift.column) == "outputs", failed.index(drift)))
    does, what, verb, look = SAID[_kind(worst.column)]
    others = {_name(drift) for drift in failed} - {_name(worst)}
    more = f"; so {'is' if len(others) == 1 else 'are'} {len(others)} more" if others else ""
    off, allowed = worst.cells
    return (
        f"{_name(worst)} {does} when the reference was recorded: from fixed numbers its {what} {verb} {off} of their"
        f" size away, allowed are {allowed}{more}. Look first at {look}."
    )


def _kind(column: str) -> str:
    return column.rpartition(" ")[2]


def _name(drift: Drift) -> str:
    return drift.column.rpartition(" ")[0]
