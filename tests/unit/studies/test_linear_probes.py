"""Linear probes: the page says what the paper says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
import pytest
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from kvbench.core.cost import cost
from kvbench.findings.judge import judge
from kvbench.results import history
from kvbench.studies.experiment import Experiment
from kvbench.studies.linear_probes import BLOCKS, STUDY
from kvbench.studies.registry import find
from kvbench.workloads import WORKLOADS


def test_it_comes_with_kvbench() -> None:
    assert find("linear-probes") is STUDY
    assert STUDY.design.shipped == STUDY.references == "linear-probes"


def test_there_is_a_probe_of_every_block_of_resnet18_shallow_to_deep() -> None:
    blocks = [name for name, part in resnet18().named_modules() if isinstance(part, BasicBlock)]
    assert tuple(blocks) == BLOCKS == tuple(student.name for student in STUDY.students)


def test_each_probe_is_one_linear_layer_on_its_own_block() -> None:
    widths = (64, 64, 128, 128, 256, 256, 512, 512)
    for depth, (student, width) in enumerate(zip(STUDY.students, widths, strict=True)):
        assert student.taps == (depth,)
        counted = cost(student, [width], 1000)
        assert counted.parameters == counted.trainable == 1000 * (width + 1)


@pytest.mark.parametrize("name", WORKLOADS)
def test_it_is_trained_on_labels_and_taps_every_block_on_each_workload(name: str) -> None:
    chosen = Experiment(STUDY, WORKLOADS[name])
    assert chosen.images.taps == BLOCKS
    assert [(recipe.loss, recipe.target) for recipe in chosen.recipes] == [("cross_entropy", "labels")]
    assert chosen.name == name


def runs(accuracies: Sequence[float]) -> pd.DataFrame:
    """Histories of twelve seeds, whose probes end with these accuracies, a little different for each seed."""
    return history.frame(
        {"configuration": block, "seed": seed, "epoch": 1, "train_loss": 1, "val_accuracy": accuracy + seed / 1000}
        for block, accuracy in zip(BLOCKS, accuracies, strict=True)
        for seed in range(12)
    )


def test_the_finding_has_a_clause_for_each_pair_of_neighbours() -> None:
    (holds,) = judge(runs([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), STUDY.design)
    assert holds.verdict == "holds"
    pairs = itertools.pairwise(BLOCKS)
    assert [clause.sentence for clause in holds.clauses] == [f"{b}'s accuracy is above {a}'s" for a, b in pairs]
    (mixed,) = judge(runs([0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.7, 0.8]), STUDY.design)
    assert mixed.verdict == "mixed"
    assert [clause.verdict for clause in mixed.clauses] == ["holds", "holds", "fails", *["holds"] * 4]
