"""Training on banks: the source's loop, its loss by hand, schedules, and validation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from kvbench.core.bank import FeatureBank
from kvbench.core.losses import distillation_loss
from kvbench.core.run import Run
from kvbench.studies.kv_memory import STUDY
from tests.support.trainer import METRICS, WIDTHS, config, fresh, history, random_bank

# The loss


def test_kl_of_p_with_p_is_zero() -> None:
    logits = torch.randn(4, 7)
    assert float(distillation_loss(logits, logits)) == 0
    assert float(distillation_loss(logits, logits + torch.randn(4, 1))) == pytest.approx(0, abs=1e-6)


def test_kl_of_a_2x3_by_hand() -> None:
    teacher = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 3 / 4, 1 / 8]])
    students = torch.tensor([[1 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 2, 1 / 4]])
    # Row 1: 1/2 ln 2 + 1/4 ln 1/2 + 0 = 1/4 ln 2. Row 2: 1/8 ln 1/2 + 3/4 ln 3/2 + 1/8 ln 1/2 = 3/4 ln 3/2 - 1/4 ln 2.
    by_hand = (0.25 * math.log(2) + 0.75 * math.log(1.5) - 0.25 * math.log(2)) / 2
    assert by_hand == pytest.approx(0.1520494)
    assert float(distillation_loss(students.log(), teacher.log())) == pytest.approx(by_hand, rel=1e-5)
    # Shifted logits are the same distribution; the other direction is another number.
    assert float(distillation_loss(students.log() + 3, teacher.log() - 1)) == pytest.approx(by_hand, rel=1e-5)
    assert float(distillation_loss(teacher.log(), students.log())) != pytest.approx(by_hand, rel=0.01)


# Steps


def test_an_epoch_is_the_plain_steps_of_adam_on_shuffled_batches() -> None:
    run = fresh(config("Model4", weight_decay=0.1), seed=5)
    run.epoch()
    run.evaluate()
    bank = run.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = STUDY.student("Model4").build(WIDTHS, 5)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(5))
    losses, sizes = [], []
    for rows in (order[:64], order[64:128], order[128:]):
        p, log_q = bank.logits[rows].softmax(1), module([tap[rows] for tap in bank.taps]).log_softmax(1)
        loss = (p * (p.log() - log_q)).sum() / len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        sizes.append(len(rows))
    assert sizes == [64, 64, 22], "the last, partial batch counts"
    assert run.history[0]["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    for key, value in module.state_dict().items():
        assert torch.allclose(run.module.state_dict()[key], value, atol=1e-5), key


def test_the_optimiser_is_adam_with_the_recipes_lr_and_decay() -> None:
    run = fresh(config("Model4", lr=0.5, weight_decay=0.25))
    assert type(run.optimizer) is torch.optim.Adam
    (group,) = run.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.5, 0.25, (0.9, 0.999), 1e-8)
    assert not group["amsgrad"]
    assert len(group["params"]) == 12  # 15 parameters less 3 frozen memories


@pytest.mark.parametrize(
    ("step_size", "expected"),
    [(2, [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]), (None, [1] * 6), (1, [0.5**e for e in range(6)])],
)
def test_the_lr_of_every_epoch(step_size: int | None, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    schedule: dict[str, Any] = {"schedule": "step", "step_size": step_size} if step_size else {}
    run = fresh(config(epochs=6, lr=0.1, **schedule))
    used: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    history(run)
    assert used == pytest.approx([0.1 * e for e in expected for _batch in range(3)])


def test_a_frozen_memory_stays_as_drawn_and_all_else_is_trained() -> None:
    run = fresh(config("Model4", weight_decay=1.0))
    before = {key: value.clone() for key, value in run.module.state_dict().items()}
    history(run)
    for key, value in run.module.state_dict().items():
        assert torch.equal(value, before[key]) == key.endswith("memory"), key


def test_labels_never_enter_training() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    other = replace(bank, labels=bank.labels.flip(0))
    assert not torch.equal(bank.labels, other.labels)
    assert history(Run(config("Model7"), bank, val, 0)) == history(Run(config("Model7"), other, val, 0))


# Validation


def test_validation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbench.core.run.EVALUATION_BATCH", 3)  # 4 rows: a whole batch and a part of one
    eye = torch.eye(2)
    taps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.9, 0.1], [0.5, 0.5]]).log()
    val = FeatureBank((taps,), logits, torch.tensor([0, 0, 1, 1]))
    run = Run(config(epochs=1, lr=0.0), val, val, 0)
    with torch.no_grad():  # logits are (0, -ln 3) or (-ln 3, 0): probabilities 3/4 and 1/4
        run.module.get_parameter("heads.0.weight").copy_((1 - eye) * -math.log(3))
        run.module.get_parameter("heads.0.bias").zero_()
    (row,) = history(run)
    # Student: class 0, 1, 0, 1. Labels 0, 0, 1, 1. Teacher 0, 0, 0, 0 (the first of a tie).
    assert row["val_accuracy"] == 2 / 4
    assert row["agreement"] == 2 / 4
    rows = [
        0.0,
        0.75 * math.log(3) - 0.25 * math.log(3),
        0.9 * math.log(0.9 / 0.75) + 0.1 * math.log(0.1 / 0.25),
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),
    ]
    assert row["val_loss"] == pytest.approx(sum(rows) / 4, rel=1e-5)
    assert row["train_loss"] == pytest.approx(sum(rows) / 4, rel=1e-5)
    assert (row["configuration"], row["seed"], row["epoch"]) == ("Model1", 0, 1)


def test_validation_does_not_depend_on_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = history(fresh())
    monkeypatch.setattr("kvbench.core.run.EVALUATION_BATCH", 7)
    for row, other in zip(history(fresh()), whole, strict=True):
        assert [row[name] for name in METRICS] == pytest.approx([other[name] for name in METRICS], rel=1e-5)


def test_validation_trains_nothing() -> None:
    often, seldom = fresh(), fresh()
    for _ in range(3):
        often.epoch()
        often.evaluate()
        seldom.epoch()
    seldom.evaluate()
    assert seldom.history[0] | {"seconds": 0} == often.history[-1] | {"seconds": 0}
