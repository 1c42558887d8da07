"""The catalogue of faults: every row patches, and takes its patch off again."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kvbench.core import losses, models
from kvbench.core.models import KeyValueMemory, ResidualChain, SumOfHeads
from kvbench.core.run import Run
from kvbench.data import fractals
from kvbench.features import extract
from kvbench.mutation.faults import FAULTS, fault
from kvbench.studies.experiment import Experiment
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support.trainer import history, random_bank

PATCHED: list[tuple[Any, str]] = [
    (Run, "__init__"),
    (Run, "epoch"),
    (Run, "evaluation"),
    (torch.optim, "Adam"),
    (torch.optim.Adam, "zero_grad"),
    (torch.nn.Module, "eval"),
    (torch, "randperm"),
    (torch, "split"),
    (F, "adaptive_avg_pool2d"),
    (losses, "distillation_loss"),
    (models, "linear"),
    (KeyValueMemory, "__init__"),
    (KeyValueMemory, "forward"),
    (SumOfHeads, "forward"),
    (ResidualChain, "forward"),
    (extract, "capture"),
    (extract, "extract"),
    (fractals, "render"),
    (fractals, "IMAGENET_MEAN"),
]


def patched() -> list[Any]:
    return [getattr(owner, name) for owner, name in PATCHED]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_there_inside_its_block_and_gone_after_it(name: str) -> None:
    before = patched()
    with pytest.raises(KeyError, match="stop"), FAULTS[name].inject():  # noqa: PT012
        inside = patched()
        assert any(a is not b for a, b in zip(before, inside, strict=True)), "what it patches is not in the list"
        raise KeyError("stop")
    assert all(a is b for a, b in zip(before, patched(), strict=True))


CONFIGURATIONS = Experiment(STUDY, WORKLOADS["fractals"], {"epochs": 3, "lr": 1e-2, "batch_size": 64}).configurations


def trained(name: str) -> list[dict[str, Any]] | str:
    """The history of a configuration on random features, or the sentence with which it is refused."""
    rows = {row.id: row for row in CONFIGURATIONS}
    try:
        return history(Run(rows[name], random_bank(128, 10), random_bank(40, 10, seed=1), 1))
    except UserError as error:
        return str(error)


undisturbed = functools.cache(trained)


@pytest.mark.parametrize("name", [name for name, row in FAULTS.items() if not row.teacher])
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # what a fault does
def test_a_fault_changes_what_is_trained_unless_it_is_equivalent(name: str) -> None:
    probe = FAULTS[name].probed(CONFIGURATIONS)[0]
    expected = undisturbed(probe)
    with FAULTS[name].inject():
        obtained = trained(probe)
    assert (repr(obtained) == repr(expected)) == bool(FAULTS[name].equivalent)
    assert repr(trained(probe)) == repr(expected), "nothing is left of it"


def test_rows_name_configurations_that_exist_and_say_what_goes_wrong() -> None:
    assert len(FAULTS) >= 50
    for row in FAULTS.values():
        probed, controlled = row.probed(CONFIGURATIONS), row.controlled(CONFIGURATIONS)
        assert len(probed) == len(row.probes) > 0, row.id
        assert len(controlled) == len(row.controls), row.id
        assert not {*probed} & {*controlled}, row.id
        assert row.description


def test_a_fault_of_what_a_study_has_not_probes_nothing() -> None:
    linear = [row for row in CONFIGURATIONS if row.student.group == "simple"]
    assert FAULTS["memory-frozen"].probed(linear) == ()
    assert FAULTS["lr-x2"].probed(linear) == ("Model1",)
    assert FAULTS["scheduler-never"].probed(CONFIGURATIONS) == ("lr_Model1",)
    assert FAULTS["scheduler-never"].controlled(CONFIGURATIONS) == ("Model1",)
    assert FAULTS["heads-averaged"].probed(CONFIGURATIONS) == ("Model2",)


def test_an_unknown_fault_names_near_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown fault 'lr-x4'\. Did you mean .*lr-x2"):
        fault("lr-x4")
