"""A study whose run takes about a second: the source's findings on narrow students and a drawn bank.

Statistics do not care how large a study is: what is compared and judged is what seeds do to a training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from kvbench.core.bank import FeatureBank
from kvbench.core.models import KeyValueMemory, ResidualChain, SumOfHeads
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness.collector import Collector
from kvbench.harness.record import record
from kvbench.harness.result import Result
from kvbench.harness.setup import Banks
from kvbench.studies import kv_memory
from kvbench.studies.experiment import Experiment
from kvbench.workloads import Workload

NAME = "drawn"
SLOTS = 8  # of a memory
WIDTHS, CLASSES, FACTORS = (8, 12, 12), 10, 16  # FACTORS: what features and logits are made of
TRAIN, VAL = 128, 200  # rows
RECIPE = {"epochs": 3, "batch_size": 32, "lr": 3e-3}


def _sum_of_memories(widths: Sequence[int], classes: int, act: str, *, trainable: bool = True) -> nn.Module:
    return SumOfHeads([KeyValueMemory(width, SLOTS, classes, act, trainable=trainable) for width in widths])


def _chain(widths: Sequence[int], classes: int) -> nn.Module:
    pairs = zip(widths, [*widths[1:], classes], strict=True)
    return ResidualChain([KeyValueMemory(width, SLOTS, out, "gelu") for width, out in pairs])


_MAKE: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "Model3": functools.partial(_sum_of_memories, act="gelu"),
    "Model4": functools.partial(_sum_of_memories, act="gelu", trainable=False),
    "Model5": functools.partial(_sum_of_memories, act="relu"),
    "Model6": functools.partial(_sum_of_memories, act="relu", trainable=False),
    "Model7": _chain,
}
STUDY = replace(
    kv_memory.STUDY,
    name="small-kv-memory",
    students=tuple(replace(row, make=_MAKE.get(row.name, row.make)) for row in kv_memory.STUDENTS),
    workloads={NAME: RECIPE},
    shipped=False,
)
EXPERIMENT = Experiment(STUDY, Workload.without_images(NAME))


def drawn_bank(rows: int, seed: int) -> FeatureBank:
    """Features that are mixed of `FACTORS` numbers of a row, the logits that a teacher might make of them, labels."""
    mixing, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, FACTORS, generator=draw)
    taps = tuple(torch.relu(factors @ torch.randn(FACTORS, width, generator=mixing) / 4) for width in WIDTHS)
    logits = factors @ torch.randn(FACTORS, CLASSES, generator=mixing)
    gumbel = -torch.empty(rows, CLASSES).exponential_(generator=draw).log()
    return FeatureBank(taps, logits, (logits + gumbel).argmax(1))


@functools.cache
def banks() -> Banks:
    """The banks of both splits, the same at every call."""
    return Banks(drawn_bank(TRAIN, 1), drawn_bank(VAL, 2), {"features": "drawn"})


def session(seeds: Sequence[int], expected: Path, *, chosen: Banks | None = None, replicates: int = 0) -> Result:
    """Train all configurations and compare them with the reference as a session does; with replicates, record one.

    Args:
        seeds: what is trained.
        expected: the folder of references.
        chosen: other banks than `banks`.
        replicates: how many of the seeds are trained again on perturbed features.
    """
    used = chosen or banks()
    collector = Collector(NAME, EXPERIMENT.design, tuple(seeds), expected, "pytest", "pytest", update=replicates > 0)
    for row in EXPERIMENT.configurations:
        training = _trained(row, used, seeds, replicates)
        collector.absorb(row.id, row.id, "passed", record(training, EXPERIMENT, used, seeds))
    for name in EXPERIMENT.design.findings:
        collector.select(name, name)
        collector.absorb(name, name, "passed", None)
    return collector.finish(tests_failed=False, interrupted=False)


def _trained(row: Configuration, used: Banks, seeds: Sequence[int], replicates: int) -> Training:
    again = [Run(row, *used.perturbed, seed) for seed in seeds[:replicates]]
    training = Training(row, used.train, used.val, seeds, again)
    training.finish()
    return training
