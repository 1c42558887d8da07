"""How often comparisons with a reference are wrong."""

from __future__ import annotations

from pathlib import Path

from kvbench.reference import verdicts
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference
from kvbench.results import history
from tests.support.references import MEMORY, made


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms = 0
    for trial in range(60):
        histories = made(seeds=5, first=1000 * trial)
        known = Reference("fractals", Path(), histories, verdicts.frame([]), {}, history.frame([]), "pytest")
        fresh = made(seeds=3, first=1000 * trial + 500)
        alarms += any(compare(known, fresh, name).failed for name in MEMORY)
    assert alarms <= 3  # 60 runs at 1%: 4 or more have a chance below 1 in 300
