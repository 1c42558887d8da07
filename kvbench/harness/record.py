"""The record of a training: what a saved benchmark keeps, enough to make every table again without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvbench.core.models import cost, student
from kvbench.core.numerics import default_numerics
from kvbench.utils.environment import environment

if TYPE_CHECKING:
    from kvbench.core.trainer import Training
    from kvbench.harness.setup import Banks
    from kvbench.workloads import Workload


def made_from(workload: Workload, banks: Banks) -> dict[str, Any]:
    """What must agree for runs to be comparable: the banks' fingerprints and the workload's recipe."""
    return {**banks.fingerprints, **{f"recipe {key}": value for key, value in asdict(workload.recipe).items()}}


@default_numerics()
def decisive(workload: Workload, banks: Banks, seeds: Sequence[int], replicates: int, code: str) -> dict[str, Any]:
    """All that decides the numbers of a suite's trainings, JSON-serialisable; ``code`` names the source code."""
    here = environment(banks.train.logits.device)
    return {
        **made_from(workload, banks),
        "banks": [banks.train.digest, banks.val.digest],
        "seeds": list(seeds),
        "replicates": replicates,
        **{name: here[name] for name in ("versions", "hardware", "random_numbers", "numerics")},
        "code": code,
    }


@default_numerics()
def record(
    training: Training, workload: Workload, banks: Banks, seeds: Sequence[int], moved: Sequence[str] | None
) -> dict[str, Any]:
    """Describe a training, finished or not, as plain data.

    ``moved``: the metrics of the gates that failed where a test compared its curves, else None.
    """
    configuration = training.configuration
    return {
        "workload": workload.name,
        "configuration": configuration.id,
        "recipe": asdict(configuration.recipe),
        "seeds": list(seeds),
        **asdict(cost(student(configuration.student), banks.train.widths, banks.train.classes)),
        "train_count": len(banks.train),
        "val_count": len(banks.val),
        "teacher_val_accuracy": banks.val.teacher_accuracy,
        "notes": "; ".join(banks.notes),
        "fingerprints": made_from(workload, banks),
        **environment(banks.train.logits.device),
        "compared": moved is not None,
        "moved": list(moved or ()),
        "history": training.history,
        "replicate_history": training.replicate_history,
        "reused_epochs": training.reused,
        "diverged": any(run.diverged for run in training.everyone),
        "state_notes": training.notes,
    }
