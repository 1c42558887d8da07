"""kvbench turns the findings of a distillation ablation into tests: trained, timed, compared curve by curve, judged.

The names below are the public surface. Each is imported when it is first used, so that ``import kvbench`` imports
neither torch nor pandas. The tables `STUDENTS`, `WORKLOADS`, `FINDINGS` and `FAULTS` are dictionaries: add a row from
``conftest.py``.

Example:
    >>> import kvbench
    >>> list(kvbench.STUDENTS)[:2]
    ['Model1', 'Model2']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvbench.core.bank import FeatureBank as FeatureBank
    from kvbench.core.hooks import capture as capture
    from kvbench.core.hooks import pool as pool
    from kvbench.core.models import STUDENTS as STUDENTS
    from kvbench.core.models import KeyValueMemory as KeyValueMemory
    from kvbench.core.models import ResidualChain as ResidualChain
    from kvbench.core.models import Student as Student
    from kvbench.core.models import SumOfHeads as SumOfHeads
    from kvbench.core.recipe import Configuration as Configuration
    from kvbench.core.recipe import Recipe as Recipe
    from kvbench.core.trainer import Training as Training
    from kvbench.core.trainer import distillation_loss as distillation_loss
    from kvbench.data.base import Images as Images
    from kvbench.data.base import Transform as Transform
    from kvbench.features.extract import extract as extract
    from kvbench.features.spec import BankSettings as BankSettings
    from kvbench.features.teacher import Teacher as Teacher
    from kvbench.findings.finding import Finding as Finding
    from kvbench.findings.registry import FINDINGS as FINDINGS
    from kvbench.findings.registry import judge as judge
    from kvbench.mutation.faults import FAULTS as FAULTS
    from kvbench.mutation.faults import Fault as Fault
    from kvbench.reference.store import Reference as Reference
    from kvbench.reference.store import load as load_reference
    from kvbench.reporting.charts import curves_chart as curves_chart
    from kvbench.results import history as history
    from kvbench.results.saved import read as read_saved
    from kvbench.utils.errors import UserError as UserError
    from kvbench.workloads import WORKLOADS as WORKLOADS
    from kvbench.workloads import Workload as Workload

__all__ = [
    "FAULTS",
    "FINDINGS",
    "STUDENTS",
    "WORKLOADS",
    "BankSettings",
    "Configuration",
    "Fault",
    "FeatureBank",
    "Finding",
    "Images",
    "KeyValueMemory",
    "Recipe",
    "Reference",
    "ResidualChain",
    "Student",
    "SumOfHeads",
    "Teacher",
    "Training",
    "Transform",
    "UserError",
    "Workload",
    "capture",
    "curves_chart",
    "distillation_loss",
    "extract",
    "history",
    "judge",
    "load_reference",
    "pool",
    "read_saved",
]

# Where each name is defined: as in the imports above, which type checkers read.
_HOMES = {
    "BankSettings": "features.spec:BankSettings",
    "Configuration": "core.recipe:Configuration",
    "FAULTS": "mutation.faults:FAULTS",
    "FINDINGS": "findings.registry:FINDINGS",
    "Fault": "mutation.faults:Fault",
    "FeatureBank": "core.bank:FeatureBank",
    "Finding": "findings.finding:Finding",
    "Images": "data.base:Images",
    "KeyValueMemory": "core.models:KeyValueMemory",
    "Recipe": "core.recipe:Recipe",
    "Reference": "reference.store:Reference",
    "ResidualChain": "core.models:ResidualChain",
    "STUDENTS": "core.models:STUDENTS",
    "Student": "core.models:Student",
    "SumOfHeads": "core.models:SumOfHeads",
    "Teacher": "features.teacher:Teacher",
    "Training": "core.trainer:Training",
    "Transform": "data.base:Transform",
    "UserError": "utils.errors:UserError",
    "WORKLOADS": "workloads:WORKLOADS",
    "Workload": "workloads:Workload",
    "capture": "core.hooks:capture",
    "curves_chart": "reporting.charts:curves_chart",
    "distillation_loss": "core.trainer:distillation_loss",
    "extract": "features.extract:extract",
    "history": "results.history:",
    "judge": "findings.registry:judge",
    "load_reference": "reference.store:load",
    "pool": "core.hooks:pool",
    "read_saved": "results.saved:read",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kvbench' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(f"kvbench.{module}")
    return getattr(home, attribute) if attribute else home


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
