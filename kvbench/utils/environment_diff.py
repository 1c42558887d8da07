"""How a run's environment differs from the reference's: versions, hardware, instructions, switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPARED = ("versions", "numerics")  # mappings of names to texts
UNTOUCHED = ("kvbench", "pytest-benchmark")  # versions that change no number by themselves


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What could change results and is not as it was recorded, a phrase each; what one side does not know is left out.

    Args:
        recorded: a reference's provenance.
        here: the record of a run.
    """
    found = []
    for group in COMPARED:
        old, new = recorded.get(group), here.get(group)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            continue
        for name in dict.fromkeys([*old, *new]):
            if name in UNTOUCHED or (group == "versions" and not {name} <= old.keys() & new.keys()):
                continue
            before, now = str(old.get(name, "not set")), str(new.get(name, "not set"))
            if before != now:
                found.append(f"{name} {now} (recorded: {before})")
    old, new = recorded.get("hardware"), here.get("hardware")
    if old and new and old != new:
        found.append(f"hardware {new} (recorded: {old})")
    return found
