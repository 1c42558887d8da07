"""Faults: what really happens to an ablation's code, each injected by a small patch to see whether a run notices.

The table is `CATALOGUE`; the modules hold its rows by what they break.
"""

from __future__ import annotations

from kvbench.errors import unknown
from kvbench.faults.fault import Fault
from kvbench.faults.features import FEATURES
from kvbench.faults.optimisation import OPTIMISATION
from kvbench.faults.reporting import REPORTING
from kvbench.faults.wiring import WIRING

CATALOGUE = {row.id: row for row in [*FEATURES, *OPTIMISATION, *WIRING, *REPORTING]}

__all__ = ["CATALOGUE", "Fault", "fault"]


def fault(name: str) -> Fault:
    """Look a fault up; raises `UserError` naming the valid ones."""
    if name not in CATALOGUE:
        raise unknown("fault", name, CATALOGUE)
    return CATALOGUE[name]
