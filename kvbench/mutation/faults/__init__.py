"""Faults: what really happens to an ablation's code, each injected by a small patch to see whether a run notices.

The table is `CATALOGUE`; the modules hold its rows by what they break.
"""

from __future__ import annotations

from kvbench.mutation.faults.fault import Fault
from kvbench.mutation.faults.features import FEATURES
from kvbench.mutation.faults.optimisation import OPTIMISATION
from kvbench.mutation.faults.reporting import REPORTING
from kvbench.mutation.faults.wiring import WIRING
from kvbench.utils.errors import unknown

CATALOGUE = {row.id: row for row in [*FEATURES, *OPTIMISATION, *WIRING, *REPORTING]}

__all__ = ["CATALOGUE", "Fault", "fault"]


def fault(name: str) -> Fault:
    """Look a fault up; raises `UserError` naming the valid ones."""
    if name not in CATALOGUE:
        raise unknown("fault", name, CATALOGUE)
    return CATALOGUE[name]
