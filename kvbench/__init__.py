"""kvbench turns the findings of a distillation ablation into tests: trained, timed, compared curve by curve, judged.

The names below are the public surface. Each is imported when it is first used, so that ``import kvbench`` imports
neither torch nor pandas. The tables `WORKLOADS` and `FAULTS` are dictionaries: add a row from ``conftest.py``.

Example:
    >>> import kvbench
    >>> kvbench.Recipe(lr=1e-3).lr
    0.001
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvbench.core.bank import FeatureBank as FeatureBank
    from kvbench.core.hooks import capture as capture
    from kvbench.core.hooks import pool as pool
    from kvbench.core.losses import distillation_loss as distillation_loss
    from kvbench.core.models import KeyValueMemory as KeyValueMemory
    from kvbench.core.models import ResidualChain as ResidualChain
    from kvbench.core.models import SumOfHeads as SumOfHeads
    from kvbench.core.models import linear as linear
    from kvbench.core.recipe import Configuration as Configuration
    from kvbench.core.recipe import Recipe as Recipe
    from kvbench.core.student import Student as Student
    from kvbench.core.trainer import Training as Training
    from kvbench.data.base import Images as Images
    from kvbench.data.base import Transform as Transform
    from kvbench.features.extract import extract as extract
    from kvbench.features.spec import BankSettings as BankSettings
    from kvbench.features.teacher import Teacher as Teacher
    from kvbench.findings.design import Design as Design
    from kvbench.findings.finding import Finding as Finding
    from kvbench.findings.judge import judge as judge
    from kvbench.findings.vocabulary import above as above
    from kvbench.findings.vocabulary import any_of as any_of
    from kvbench.findings.vocabulary import at_least as at_least
    from kvbench.findings.vocabulary import below as below
    from kvbench.findings.vocabulary import best_of as best_of
    from kvbench.findings.vocabulary import better as better
    from kvbench.findings.vocabulary import correlates as correlates
    from kvbench.findings.vocabulary import monotone as monotone
    from kvbench.findings.vocabulary import no_worse as no_worse
    from kvbench.findings.vocabulary import not_better as not_better
    from kvbench.findings.vocabulary import sooner as sooner
    from kvbench.harness.sweep import sweep as sweep
    from kvbench.mutation.faults import FAULTS as FAULTS
    from kvbench.mutation.faults import Fault as Fault
    from kvbench.reference.store import Reference as Reference
    from kvbench.reference.store import load as load_reference
    from kvbench.reporting.charts import curves_chart as curves_chart
    from kvbench.results import history as history
    from kvbench.results.saved import read as read_saved
    from kvbench.studies.experiment import Experiment as Experiment
    from kvbench.studies.grid import Grid as Grid
    from kvbench.studies.study import Study as Study
    from kvbench.utils.errors import UserError as UserError
    from kvbench.workloads import WORKLOADS as WORKLOADS
    from kvbench.workloads import Workload as Workload

__all__ = [
    "FAULTS",
    "WORKLOADS",
    "BankSettings",
    "Configuration",
    "Design",
    "Experiment",
    "Fault",
    "FeatureBank",
    "Finding",
    "Grid",
    "Images",
    "KeyValueMemory",
    "Recipe",
    "Reference",
    "ResidualChain",
    "Student",
    "Study",
    "SumOfHeads",
    "Teacher",
    "Training",
    "Transform",
    "UserError",
    "Workload",
    "above",
    "any_of",
    "at_least",
    "below",
    "best_of",
    "better",
    "capture",
    "correlates",
    "curves_chart",
    "distillation_loss",
    "extract",
    "history",
    "judge",
    "linear",
    "load_reference",
    "monotone",
    "no_worse",
    "not_better",
    "pool",
    "read_saved",
    "sooner",
    "sweep",
]

# Where each name is defined: as in the imports above, which type checkers read.
_HOMES = {
    "BankSettings": "features.spec:BankSettings",
    "Configuration": "core.recipe:Configuration",
    "Design": "findings.design:Design",
    "Experiment": "studies.experiment:Experiment",
    "FAULTS": "mutation.faults:FAULTS",
    "Fault": "mutation.faults:Fault",
    "FeatureBank": "core.bank:FeatureBank",
    "Finding": "findings.finding:Finding",
    "Grid": "studies.grid:Grid",
    "Images": "data.base:Images",
    "KeyValueMemory": "core.models:KeyValueMemory",
    "Recipe": "core.recipe:Recipe",
    "Reference": "reference.store:Reference",
    "ResidualChain": "core.models:ResidualChain",
    "Student": "core.student:Student",
    "Study": "studies.study:Study",
    "SumOfHeads": "core.models:SumOfHeads",
    "Teacher": "features.teacher:Teacher",
    "Training": "core.trainer:Training",
    "Transform": "data.base:Transform",
    "UserError": "utils.errors:UserError",
    "WORKLOADS": "workloads:WORKLOADS",
    "Workload": "workloads:Workload",
    "above": "findings.vocabulary:above",
    "any_of": "findings.vocabulary:any_of",
    "at_least": "findings.vocabulary:at_least",
    "below": "findings.vocabulary:below",
    "best_of": "findings.vocabulary:best_of",
    "better": "findings.vocabulary:better",
    "capture": "core.hooks:capture",
    "correlates": "findings.vocabulary:correlates",
    "curves_chart": "reporting.charts:curves_chart",
    "distillation_loss": "core.losses:distillation_loss",
    "extract": "features.extract:extract",
    "history": "results.history:",
    "judge": "findings.judge:judge",
    "linear": "core.models:linear",
    "load_reference": "reference.store:load",
    "monotone": "findings.vocabulary:monotone",
    "no_worse": "findings.vocabulary:no_worse",
    "not_better": "findings.vocabulary:not_better",
    "pool": "core.hooks:pool",
    "read_saved": "results.saved:read",
    "sooner": "findings.vocabulary:sooner",
    "sweep": "harness.sweep:sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kvbench' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(f"kvbench.{module}")
    return getattr(home, attribute) if attribute else home


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
