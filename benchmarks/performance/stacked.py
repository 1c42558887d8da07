"""Seeds of a student that are stacked, against the same seeds side by side and one after another, on whatever there is.

Alone: ``python -m benchmarks.performance --parts stacked``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.performance.material import Scale, once, round_robin, synthetic
from benchmarks.performance.roofline import TOGETHER
from kvbench.core.numerics import accelerator
from kvbench.core.trainer import Training
from kvbench.utils.environment import hardware

STUDENTS = ("Model1", "Model3", "Model7")


def stacked(scale: Scale, seeds: int = TOGETHER) -> dict[str, Any]:
    """Seconds of an epoch of all seeds of each student, each way, in turn; on an accelerator where there is one."""
    device = accelerator() or torch.device("cpu")
    bank = synthetic(scale.rows).to(device)
    result: dict[str, Any] = {"seeds": seeds, "rows": scale.rows, "hardware": hardware(device), "students": {}}
    for name in [n for n in STUDENTS if n in scale.students]:
        row = once(name)
        alone = [Training(row, bank, bank, [seed]) for seed in range(seeds)]
        acts: dict[str, Callable[[], object]] = {
            "stacked": Training(row, bank, bank, range(seeds), stacked=True).epoch,
            "side by side": Training(row, bank, bank, range(seeds)).epoch,
            "one after another": partial(_one_after_another, alone),
        }
        result["students"][name] = round_robin(acts, scale.rounds)
    return result


def _one_after_another(trainings: Sequence[Training]) -> None:
    for training in trainings:
        training.epoch()
