"""Understanding intermediate layers using linear classifier probes (Alain & Bengio, 2016): depth makes separable.

A probe is one linear classifier, softmax and cross-entropy on labels, on the features of one block of a trained network
that it never changes: how well it does is how linearly separable the classes are there. The paper's claim is in its
abstract: "the linear separability of features increase monotonically along the depth of the model".

Here the network is ResNet18, probed after each of its eight blocks. Features are averaged over their places, so that a
probe reads 64 to 512 numbers of an image. Adam and the recipe are ours. lr was chosen by the mean accuracy of the eight
probes on tiny-imagenet, seeds 1000 and 1001, which no reference has: 0.236 with 1e-3, 0.248 with 3e-3, 0.236 with 1e-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kvbench as kv
from kvbench.core.recipe import Recipe
from kvbench.core.student import Student
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import monotone
from kvbench.studies.study import Study

if TYPE_CHECKING:
    from torch import nn

BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1")


def probe(widths: Sequence[int], classes: int) -> nn.Module:
    """One linear layer on one block."""
    return kv.SumOfHeads([kv.linear(widths[0], classes)])


STUDENTS = tuple(
    Student(block, probe, taps=(depth,), summary=f"Linear after {block}") for depth, block in enumerate(BLOCKS)
)

RECIPES = (Recipe("labels", epochs=10, lr=3e-3, loss="cross_entropy", target="labels"),)

FINDINGS = (
    Finding(
        "separability-rises-with-depth",
        "the linear separability of features increases monotonically along the depth of the model",
        monotone(*BLOCKS),
    ),
)

STUDY = Study(
    "linear-probes",
    "Understanding intermediate layers using linear classifier probes",
    STUDENTS,
    RECIPES,
    FINDINGS,
    workloads={name: {"taps": BLOCKS} for name in ("fractals", "tiny-imagenet", "imagenet", "folder")},
    source="Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016",
    link="https://arxiv.org/abs/1610.01644",
    shipped=True,
)
