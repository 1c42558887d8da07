"""Probes held against those of a reference: whether students compute and learn what they did, whatever the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvbench.reference.compare import differing
from kvbench.reference.drift import Drift, by_excess, drifts
from kvbench.reference.store import Reference

# Relative: 80 times what other instruction sets changed those of the shipped students by.
ALLOWED = 2.0**-14
SAID = {  # of each kind: what is not as it was, by what that is seen, and where to look
    "outputs": (
        "does not compute what it did",
        "outputs for fixed numbers",
        "its layers, activations, what it reads, and the names and shapes of its parameters",
    ),
    "gradients": ("does not learn what it did", "gradients for fixed numbers", "the loss and what is trained"),
    "steps": ("is not optimized as it was", "steps with fixed gradients", "the optimizer and its arguments"),
}


def compare_probes(
    reference: Reference, probes: Mapping[str, Sequence[float]], fingerprints: Mapping[str, Any]
) -> tuple[Drift, ...]:
    """Compare what students compute from fixed numbers, and how they learn from them, with what is recorded.

    Args:
        reference: what `kvbench.reference.store.load` returns. One without probes says nothing.
        probes: `kvbench.harness.record.probes` of the run; a student that one of both has alone is not compared.
        fingerprints: what the run was made from. If anything is another, nothing is compared.

    Example:
        >>> recorded = reference.provenance["probes"]  # doctest: +SKIP
        >>> describe(compare_probes(reference, recorded, reference.fingerprints))  # doctest: +SKIP
        ''
    """
    if differing(reference.fingerprints, fingerprints):
        return ()
    recorded = dict(reference.provenance.get("probes") or {})
    return drifts(probes, {column: recorded[column] for column in recorded if _kind(column) in SAID}, ALLOWED)


def describe(found: Iterable[Drift]) -> str:
    """One sentence about the farthest that failed, of the first kind of which one did; empty if none did."""
    failed = [drift for drift in by_excess(found) if drift.failed]
    if not failed:
        return ""
    kind = next(kind for kind in SAID if any(_kind(drift.column) == kind for drift in failed))
    worst = [drift for drift in failed if _kind(drift.column) == kind][-1]
    does, what, look = SAID[kind]
    off, allowed = worst.cells
    if math.isnan(worst.difference):
        how = "are other ones with each seed on one side, or it has other parameters"
    elif worst.difference >= 1:
        how = "are others altogether"
    else:
        how = f"are {off} of their size away, allowed are {allowed}"
    name = configuration_of(worst.column)
    others = len({configuration_of(drift.column) for drift in failed} - {name})
    more = f"; so are those of {others} more" if others else ""
    return f"{name} {does} when the reference was recorded: its {what} {how}{more}. Look first at {look}."


def configuration_of(column: str) -> str:
    """Whose a probe is: ``Model3`` of ``Model3 outputs``."""
    return column.rpartition(" ")[0]


def _kind(column: str) -> str:
    return column.rpartition(" ")[2]
