"""Knowledge Distillation of ResNet18 (fxnnxc's blog, 2023-04-19): linear heads against key-value memories.

The students read the last three blocks of ResNet18, pooled: 256, 512 and 512 wide. The source names no optimiser: Adam
is assumed, as it fits its lr and weight decay. Limits of the findings, such as twice the loss, are ours: it gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kvbench as kv
from kvbench.core.recipe import Recipe
from kvbench.core.student import Student
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import at_least, below, best_of, better, correlates, no_worse, not_better, sooner
from kvbench.studies.study import Study

if TYPE_CHECKING:
    from torch import nn


def linear_heads(widths: Sequence[int], classes: int) -> nn.Module:
    """One linear layer on each tap, their logits added up."""
    return kv.SumOfHeads([kv.linear(width, classes) for width in widths])


def memories(widths: Sequence[int], classes: int, act: str, *, trainable: bool = True) -> nn.Module:
    """A memory of 256 slots on each tap, their logits added up."""
    return kv.SumOfHeads([kv.KeyValueMemory(width, 256, classes, act, trainable=trainable) for width in widths])


def chain(widths: Sequence[int], classes: int) -> nn.Module:
    """Memories of 512 slots in a residual chain; each is as wide as the tap that it is added to."""
    pairs = zip(widths, [*widths[1:], classes], strict=True)
    return kv.ResidualChain([kv.KeyValueMemory(width, 512, out, "gelu") for width, out in pairs])


LAST, LAST_TWO, LAST_THREE = (-1,), (-2, -1), (-3, -2, -1)
GELU, RELU, TRAINED, FROZEN = "GELU", "ReLU", "trained memories", "frozen memories"
MORE, SUMS = "what reads more than the last tap", "what reads the third tap from the end, and the sums of memories"

STUDENTS = (
    Student("Model1", linear_heads, LAST, "Linear", "simple"),
    Student("Model2", linear_heads, LAST_TWO, "sum of two Linears", "simple", (MORE,)),
    Student("Model3", lambda d, k: memories(d, k, "gelu"), LAST_THREE, "sum of three memories, GELU",
            "memory", (GELU, TRAINED, MORE, SUMS)),
    Student("Model4", lambda d, k: memories(d, k, "gelu", trainable=False), LAST_THREE, "Model3, frozen memory",
            "memory", (GELU, FROZEN, MORE, SUMS)),
    Student("Model5", lambda d, k: memories(d, k, "relu"), LAST_THREE, "Model3, ReLU",
            "memory", (RELU, TRAINED, MORE, SUMS)),
    Student("Model6", lambda d, k: memories(d, k, "relu", trainable=False), LAST_THREE, "Model5, frozen memory",
            "memory", (RELU, FROZEN, MORE, SUMS)),
    Student("Model7", chain, LAST_THREE, "residual chain of memories, GELU",
            "memory", (GELU, TRAINED, MORE, "residual chain")),
)  # fmt: skip

RECIPES = (
    Recipe("StepLR", "lr_{student}", schedule="step", step_size=2, gamma=0.5),
    Recipe("constant lr"),
)

RESIDUAL = {"train_loss": 1.2, "val_accuracy": 0.02}  # "not by much"
FROZEN_LIMITS = {"train_loss": 1.05, "val_accuracy": 0.01}  # "no worse"

FINDINGS = (
    Finding(
        "simple-converges-faster",
        "the simpler model has significantly faster optimization",
        sooner("simple", "memory", by="area"),
    ),
    Finding(
        "simple-is-best",
        "best performance with Models 1 and 2",
        better("simple", "memory"),
    ),
    Finding(
        "memory-hardly-trains",
        "Key-value memory is hardly trained",
        [at_least(2, "memory", best_of("simple"), "train_loss"), below("memory", "simple", "val_accuracy")],
    ),
    Finding(
        "gelu-beats-relu",
        "GELU is better than ReLU",
        [better("Model3", "Model5", said=(GELU, RELU)), better("Model4", "Model6", said=(GELU, RELU))],
    ),
    Finding(
        "dense-beats-residual",
        "residual is worse than dense, not by much",
        [
            [not_better("Model7", dense), no_worse("Model7", dense, RESIDUAL, label="not-much-worse")]
            for dense in ("Model3", "Model4")
        ],
    ),
    Finding(
        "frozen-memory-suffices",
        "a frozen memory is no worse than a trained one (in its tables, not in its prose)",
        [no_worse("Model4", "Model3", FROZEN_LIMITS), no_worse("Model6", "Model5", FROZEN_LIMITS)],
    ),
    Finding(
        "loss-predicts-accuracy",
        "accuracy correlates with training loss",
        correlates("train_loss", "val_accuracy", at_most=-0.8),
    ),
    Finding(
        "scheduler-helps",
        "lr_scheduler is a good way",
        better("all", across=("StepLR", "constant lr")),
    ),
)

STUDY = Study(
    "kv-memory",
    "Knowledge Distillation of ResNet18: linear heads against key-value memories",
    STUDENTS,
    RECIPES,
    FINDINGS,
    workloads={
        "fractals": {"lr": 2.75e-3},  # 6,144 training images of 200 classes
        "tiny-imagenet": {"lr": 3e-3},  # 16,384 training images of 200 classes
        "imagenet": {},
        "folder": {"lr": 1e-3},  # for folders smaller than ImageNet
    },
    source="fxnnxc, Knowledge Distillation of ResNet18, 2023",
    focus="memory",
    folder="",
    shipped=True,
)
