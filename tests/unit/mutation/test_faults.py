"""The catalogue of faults: every row patches, and takes its patch off again."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kvbench.core import losses, models
from kvbench.core.models import KeyValueMemory, ResidualChain, SumOfHeads
from kvbench.core.run import Run
from kvbench.data import fractals
from kvbench.features import extract
from kvbench.mutation.faults import FAULTS, CannotActError, fault, features
from kvbench.studies.experiment import Experiment
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support.trainer import history, random_bank

PATCHED: list[tuple[Any, str]] = [
    (Run, "__init__"),
    (Run, "epoch"),
    (Run, "chunks"),
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
    (extract, "passing"),
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
CONFIGURATION = {row.id: row for row in CONFIGURATIONS}["Model1"]
BANKS = random_bank(128, 10), random_bank(40, 10, seed=1)


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


def test_weight_decay_that_skips_biases_decays_all_else() -> None:
    with FAULTS["weight-decay-skips-biases"].inject():
        run = Run(CONFIGURATION, *BANKS, 1)
    groups = {group["weight_decay"]: group["params"] for group in run.optimizer.param_groups}
    assert all(parameter.ndim == 1 for parameter in groups[0.0])
    assert all(parameter.ndim == 2 for parameter in groups[CONFIGURATION.recipe.weight_decay])
    assert sum(map(len, groups.values())) == len(list(run.module.parameters()))


def test_moments_are_lost_between_epochs_and_not_within() -> None:
    expected = history(Run(CONFIGURATION, *BANKS, 1))
    with FAULTS["moments-lost"].inject():
        run = Run(CONFIGURATION, *BANKS, 1)
        obtained = history(run)
    steps = {int(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {2}, "those of the last epoch, of 128 rows in batches of 64"
    assert obtained[0] == expected[0]
    assert obtained[1] != expected[1]


def test_warm_up_raises_lr_over_the_first_epoch_and_leaves_the_schedule_alone() -> None:
    row = {row.id: row for row in CONFIGURATIONS}["lr_Model1"]
    rates = []
    with FAULTS["warm-up"].inject():
        run = Run(row, *BANKS, 1)
        run.optimizer.register_step_post_hook(lambda *_: rates.append(run.optimizer.param_groups[0]["lr"]))
        history(run)
    lr = row.recipe.lr
    assert rates == [lr / 2, lr, lr, lr, lr / 2, lr / 2]


@pytest.mark.parametrize(("name", "same"), [("normal-init", True), ("xavier-init", False), ("default-init", False)])
def test_another_distribution_draws_weights_anew_and_leaves_biases_alone(name: str, same: bool) -> None:
    clean = Run(CONFIGURATION, *BANKS, 1).module.state_dict()
    with FAULTS[name].inject():
        drawn = Run(CONFIGURATION, *BANKS, 1).module.state_dict()
    assert all(torch.equal(clean[key], drawn[key]) for key in clean if key.endswith("bias"))
    assert not any(torch.equal(clean[key], drawn[key]) for key in clean if key.endswith("weight"))
    spreads = [side["heads.0.weight"].std() for side in (clean, drawn)]
    assert (0.7 < spreads[1] / spreads[0] < 1.4) == same


def test_smoothed_targets_keep_their_order_and_lose_a_tenth() -> None:
    from kvbench.mutation.faults.training import smoothed_loss

    teacher = 5 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    smoothed = (0.9 * F.softmax(teacher, 1) + 0.01).log()
    assert smoothed_loss(smoothed, teacher) == pytest.approx(0, abs=1e-6)
    assert smoothed_loss(teacher, teacher) > 0.01


def test_noise_moves_features_by_a_hundredth_and_nothing_else() -> None:
    with FAULTS["feature-noise"].inject():
        run = Run(CONFIGURATION, *BANKS, 1)
    for noisy, clean in zip((run.train, run.val), BANKS, strict=True):
        moved = noisy.taps[0] / clean.taps[-1] - 1
        assert 0.008 < float(moved.std()) < 0.012
        assert torch.equal(noisy.logits, clean.logits)
        assert torch.equal(noisy.labels, clean.labels)


def test_logits_of_some_training_rows_go_round_among_them() -> None:
    train, val = random_bank(450, 10), random_bank(40, 10, seed=1)
    with FAULTS["logit-rows-permuted"].inject():
        run = Run(CONFIGURATION, train, val, 1)
    moved = (run.train.logits != train.logits).any(1).nonzero()[:, 0].tolist()
    assert moved == [0, 100, 200, 300, 400]
    assert torch.equal(run.train.logits[100], train.logits[0])
    assert torch.equal(run.train.taps[0], train.taps[-1])
    assert torch.equal(run.val.logits, val.logits)


def test_sixteen_rows_fewer_change_validation_alone() -> None:
    expected = history(Run(CONFIGURATION, *BANKS, 1))
    with FAULTS["validation-16-rows-fewer"].inject():
        run = Run(CONFIGURATION, *BANKS, 1)
        obtained = history(run)
    assert len(run.val) == len(BANKS[1]) - 16
    assert [row["train_loss"] for row in obtained] == [row["train_loss"] for row in expected]
    assert all(a["val_loss"] != b["val_loss"] for a, b in zip(obtained, expected, strict=True))


@pytest.mark.parametrize(
    ("tap", "before"), [("layer4.1", "layer4.0"), ("layer4.0", "layer3.1"), ("layer1.1", "layer1.0")]
)
def test_the_block_before_is_a_resnet18s(tap: str, before: str) -> None:
    assert features.block_before(tap) == before


@pytest.mark.parametrize("tap", ["layer1.0", "features.5", "layer4.2", "layer4", "blocks.3@BNC"])
def test_there_is_no_block_before_elsewhere(tap: str) -> None:
    with pytest.raises(CannotActError, match=f"the tap {re.escape(tap)} has no block before it as in a ResNet18"):
        features.block_before(tap)


@pytest.mark.parametrize("name", ["hook-before-relu", "hook-before-residual", "taps-one-block-early"])
def test_hooks_say_what_a_teacher_lacks(name: str) -> None:
    teacher = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    with (
        FAULTS[name].inject(),
        pytest.raises(CannotActError, match="ResNet18"),
        vars(extract)["capture"](teacher, ["0"]),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [("kl-reversed", {"loss": "mse"}, "no loss kl"), ("amsgrad", {"optimizer": "SGD"}, "no optimizer Adam")],
)
def test_a_recipe_without_what_is_patched_says_so(name: str, change: dict[str, Any], reason: str) -> None:
    other = replace(CONFIGURATION, recipe=replace(CONFIGURATION.recipe, **change))
    with FAULTS[name].inject():
        Run(CONFIGURATION, *BANKS, 1)
        with pytest.raises(CannotActError, match=f"the recipe constant lr has {reason}"):
            Run(other, *BANKS, 1)


def test_a_teacher_with_one_tap_has_none_to_swap() -> None:
    bank = replace(random_bank(8), taps=random_bank(8).taps[:1])
    with pytest.raises(CannotActError, match="the teacher has one tap"):
        features.last_two_swapped(bank)
