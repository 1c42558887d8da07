"""How often comparisons with a reference are wrong."""

from __future__ import annotations

from pathlib import Path

from scipy.stats import binom

from kvbench.reference import verdicts
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference
from kvbench.results import history
from tests.support import DESIGN
from tests.support.references import MEMORY, memory_runs
from tests.support.trials import trials


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms, count = 0, trials(60)
    for trial in range(count):
        histories = memory_runs(seeds=5, first=1000 * trial)
        known = Reference("fractals", DESIGN, Path(), histories, verdicts.frame([]), {}, history.frame([]), "pytest")
        fresh = memory_runs(seeds=3, first=1000 * trial + 500)
        alarms += any(compare(known, fresh, name).failed for name in MEMORY)
    assert alarms <= binom.isf(1 / 300, count, 0.01)
