"""The clock of a training that may have been interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """A timer for pytest-benchmark: the seconds of ``base``, and those of reused epochs as if they had just passed.

    Args:
        base: any timer that counts seconds.
    """

    def __init__(self, base: Callable[[], float] = time.perf_counter):
        self.base = base
        self.ahead = 0.0
        self.name = f"{getattr(base, '__module__', '?')}.{getattr(base, '__qualname__', base)}"

    def __call__(self) -> float:
        return self.base() + self.ahead

    def __str__(self) -> str:  # what a saved benchmark calls its timer
        return f"{self.name}, reused epochs counted"
