"""Faults: what really happens to an ablation's code, each injected by a small patch to see whether a run notices.

The table is `FAULTS`; the modules hold its rows by what they break.
"""

from __future__ import annotations

from kvbench.mutation.faults.fault import CannotActError, Fault
from kvbench.mutation.faults.features import FEATURE_FAULTS
from kvbench.mutation.faults.recording import RECORDING_FAULTS
from kvbench.mutation.faults.students import STUDENT_FAULTS
from kvbench.mutation.faults.training import TRAINING_FAULTS
from kvbench.utils.errors import unknown

FAULTS = {row.id: row for row in [*FEATURE_FAULTS, *TRAINING_FAULTS, *STUDENT_FAULTS, *RECORDING_FAULTS]}

__all__ = ["FAULTS", "CannotActError", "Fault", "fault"]


def fault(name: str) -> Fault:
    """Look a fault up; raises `UserError` naming the valid ones."""
    if name not in FAULTS:
        raise unknown("fault", name, FAULTS)
    return FAULTS[name]
