"""How often tests try what they draw: ``KVBENCH_TRIALS=10`` tries ten times as often, ``0.1`` a tenth as often."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("KVBENCH_TRIALS", "1"))


def trials(count: int) -> int:
    """The number of trials where ``count`` is the usual one; at least one."""
    return max(1, round(FACTOR * count))
