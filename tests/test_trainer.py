"""Training on banks: the source's loop, its loss by hand, seeds, schedules, and what goes wrong."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import plain_loop
import pytest
import torch
from conftest_small import SMALL

from kvbench import trainer
from kvbench.bank import BankSettings, FeatureBank
from kvbench.cache import open_bank
from kvbench.errors import UserError
from kvbench.models import STUDENTS, student
from kvbench.recipe import Configuration, Recipe, configurations
from kvbench.teacher import from_checkpoint
from kvbench.trainer import Run, Training, distillation_loss

CPU = torch.device("cpu")
WIDTHS = (4, 6, 6)
METRICS = ["train_loss", "val_loss", "val_accuracy", "agreement"]
ROW = ["configuration", "seed", "epoch", *METRICS, "seconds"]


def random_bank(count: int = 150, classes: int = 5, seed: int = 0, device: str = "cpu") -> FeatureBank:
    g = torch.Generator().manual_seed(seed)
    taps = tuple(torch.randn(count, d, generator=g).to(device) for d in WIDTHS)
    logits, labels = 2 * torch.randn(count, classes, generator=g), torch.randint(classes, (count,), generator=g)
    return FeatureBank(taps, logits.to(device), labels.to(device))


def config(name: str = "Model1", **recipe: Any) -> Configuration:
    return Configuration(name, Recipe(**{"epochs": 3, "lr": 1e-2, **recipe}))


def history(run: Run | Training) -> list[dict[str, Any]]:
    """The history of ``run``, trained to its end, without the seconds."""
    while not all(r.done for r in (run.runs if isinstance(run, Training) else [run])):
        run.epoch()
        run.evaluate()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


def fresh(configuration: Configuration | None = None, seed: int = 0) -> Run:
    return Run(configuration or config(), random_bank(), random_bank(40, seed=1), seed)


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


# The source's loop


@pytest.mark.parametrize("chosen", ["Model1", "lr_Model3", "Model7"])
def test_training_on_banks_gives_the_history_of_the_sources_loop(
    chosen: str, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Two whole batches and a part of one; at a higher lr so short a training multiplies the last bits' differences.
    workload = replace(SMALL, size=32, train_count=150, recipe=Recipe(epochs=3, lr=1e-3))
    images = {"train": workload.images("train", None, 150), "val": workload.images("val", None, 60)}
    teacher = from_checkpoint(small_checkpoint, "resnet18", images["train"].classes)
    cache = tmp_path_factory.getbasetemp() / "banks"
    banks = {
        split: open_bank(BankSettings(part, teacher, workload.taps), cache, split, CPU)
        for split, part in images.items()
    }
    row = next(row for row in configurations(list(STUDENTS), workload.recipe) if row.id == chosen)
    fast = history(Run(row, banks["train"], banks["val"], seed=3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = student(row.student).build(banks["train"].widths, 10)
    plain = plain_loop.train(teacher.module, module, images["train"], images["val"], row.recipe, seed=3)
    assert len(plain) == len(fast) == 3
    for obtained, expected in zip(fast, plain, strict=True):
        assert [obtained[name] for name in METRICS[:2]] == pytest.approx(
            [expected[name] for name in METRICS[:2]], rel=1e-3
        )
        # One image of 60 may change sides on the last bits of its logits.
        assert [obtained[name] for name in METRICS[2:]] == pytest.approx(
            [expected[name] for name in METRICS[2:]], abs=1.5 / 60
        )
    assert plain[0]["train_loss"] > 1.1 * plain[-1]["train_loss"], "an equality of untrained students says nothing"


def test_an_epoch_is_the_plain_steps_of_adam_on_shuffled_batches() -> None:
    run = fresh(config("Model4", weight_decay=0.1), seed=5)
    run.epoch()
    run.evaluate()
    bank = run.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = student("Model4").build(WIDTHS, 5)
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
    run = fresh(config(epochs=6, lr=0.1, step_size=step_size))
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
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", 3)  # 4 rows: a whole batch and a part of one
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
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", 7)
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


# Epochs


def test_rows_have_the_columns_of_the_history_frame() -> None:
    run = fresh(config("Model3", step_size=2), seed=7)
    run.epoch()
    run.evaluate()
    (row,) = run.history
    assert list(row) == ROW
    assert (row["configuration"], row["seed"], row["epoch"]) == ("lr_Model3", 7, 1)
    assert row["seconds"] > 0


def test_after_the_last_epoch_another_one_does_nothing() -> None:
    run = fresh()
    rows = history(run)
    before = {key: value.clone() for key, value in run.module.state_dict().items()}
    run.epoch()
    run.evaluate()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len(run.history) == 3
    assert run.epochs_done == 3
    assert all(torch.equal(value, before[key]) for key, value in run.module.state_dict().items())


def test_an_epoch_is_evaluated_once_and_nothing_before_the_first() -> None:
    run = fresh()
    run.evaluate()
    assert run.history == []
    run.epoch()
    run.evaluate()
    run.evaluate()
    assert len(run.history) == 1


def test_several_seeds_train_epoch_by_epoch_as_they_would_alone() -> None:
    ticks: list[tuple[int, int]] = []
    bank, val = random_bank(), random_bank(40, seed=1)
    training = Training(config(), bank, val, [4, 2], lambda run: ticks.append((run.seed, run.epochs_done)))
    together = history(training)
    assert [sorted(ticks[i : i + 2]) for i in (0, 2, 4)] == [[(2, 1), (4, 1)], [(2, 2), (4, 2)], [(2, 3), (4, 3)]]
    assert together == history(Run(config(), bank, val, 4)) + history(Run(config(), bank, val, 2))
    training.epoch()
    assert len(ticks) == 6


@pytest.mark.parametrize("trained", [0, 1, 3])
def test_finish_trains_and_evaluates_what_is_left(trained: int) -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    whole = history(Training(config(), bank, val, [0, 1]))
    training = Training(config(), bank, val, [0, 1])
    for i in range(trained):
        if i:
            training.evaluate()
        training.epoch()  # the latest one is not yet evaluated
    training.finish()
    assert history(training) == whole
    training.finish()
    assert len(training.history) == 6


# Seeds


@pytest.mark.parametrize("name", STUDENTS)
def test_the_same_seed_gives_bitwise_the_same_history_whatever_ran_before(name: str) -> None:
    first = history(fresh(config(name), seed=1))
    torch.rand(5)
    history(fresh(config("Model2"), seed=9))
    assert history(fresh(config(name), seed=1)) == first
    other = history(fresh(config(name), seed=2))
    assert all(a["train_loss"] != b["train_loss"] for a, b in zip(first, other, strict=True))


def test_the_seed_decides_order_and_initialisation_apart() -> None:
    runs = [fresh(seed=s) for s in (0, 0, 1)]
    weights = [run.module.get_parameter("heads.0.weight") for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    orders = [torch.randperm(150, generator=run.order).tolist() for run in runs]
    assert orders[0] == orders[1] != orders[2]
    assert torch.randperm(150, generator=runs[0].order).tolist() != orders[0], "every epoch has its own order"
    # The order does not depend on how many numbers the initialisation drew.
    assert torch.randperm(150, generator=fresh(config("Model7")).order).tolist() == orders[0]


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.rand(7)  # away from where an earlier test's seed may have left it
    state = torch.get_rng_state()
    history(fresh(config("Model7"), seed=11))
    assert torch.equal(torch.get_rng_state(), state)


# What goes wrong, and where it runs


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_tells_configuration_seed_epoch_and_step(value: float) -> None:
    run = fresh(config(step_size=2), seed=8)
    run.epoch()
    run.evaluate()
    rows = torch.randperm(150, generator=run.order.clone_state()).tolist()
    run.train.taps[-1][rows[70], 2] = value  # in the second batch of 64
    with pytest.raises(UserError, match=r"lr_Model1 \(seed 8\) is (nan|inf) in epoch 2, step 2: try a smaller lr"):
        run.epoch()
    assert [row["epoch"] for row in run.history] == [1], "what was trained before is kept"


def test_too_few_taps_are_told_before_training() -> None:
    bank = replace(random_bank(), taps=random_bank().taps[1:])
    with pytest.raises(UserError, match=r"Model7 reads 3 taps, there are 2"):
        Run(config("Model7"), bank, bank, 0)


@pytest.mark.parametrize("name", STUDENTS)
def test_training_stays_on_the_banks_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adam = torch.optim.Adam

    def not_fused(*arguments: Any, fused: bool, **options: Any) -> torch.optim.Optimizer:
        return adam(*arguments, **options)  # fused, Adam refuses meta tensors

    monkeypatch.setattr(torch.optim, "Adam", not_fused)
    bank = random_bank(device="meta")
    run = Run(config(name), bank, bank, 0)
    assert {t.device.type for t in run.module.state_dict().values()} == {"meta"}
    # Meta tensors hold no numbers: the epoch goes through its steps and stops where it asks for the loss.
    synchronised: list[str] = []
    meta, real = SimpleNamespace(synchronize=lambda: synchronised.append("once")), torch.get_device_module
    monkeypatch.setattr(
        torch, "get_device_module", lambda device=None: meta if device == torch.device("meta") else real(device)
    )
    with pytest.raises(RuntimeError, match="meta tensor"):
        run.epoch()
    assert synchronised == ["once", "once"], "before and after a portion is timed"
    assert all(v.is_meta for state in run.optimizer.state.values() for k, v in state.items() if k != "step")
    trained = [p for p in run.module.parameters() if p.requires_grad]
    assert len(run.optimizer.state) == len(trained)
    assert all(p.grad is not None and p.grad.is_meta for p in trained)


# Seeds side by side


@pytest.mark.parametrize("threads", [1, 3])
def test_histories_depend_on_no_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    bank, val = random_bank(), random_bank(40, seed=1)
    torch.set_num_threads(threads)
    try:
        together = history(Training(config("Model3"), bank, val, [0, 1, 2, 3]))
        assert torch.get_num_threads() == threads, "what others find set stays so"
    finally:
        torch.set_num_threads(before)
    assert together == [row for seed in range(4) for row in history(fresh(config("Model3"), seed))]


def test_seeds_are_trained_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    meeting = threading.Barrier(2, timeout=30)
    met: list[int] = []

    def portions(_: Run) -> Iterator[None]:
        met.append(meeting.wait())  # each waits for the other: one alone would fail
        yield

    monkeypatch.setattr(Run, "portions", portions)
    torch.set_num_threads(2)
    try:
        Training(config(), random_bank(), random_bank(40, seed=1), [0, 1]).epoch()
    finally:
        torch.set_num_threads(before)
    assert sorted(met) == [0, 1]


def test_an_epoch_pauses_between_portions_and_gives_the_same_history(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = history(fresh())
    monkeypatch.setattr(trainer, "PORTION", 2)
    run = fresh()
    assert len(list(run.portions())) == 2, "3 batches of 64"
    run.evaluate()
    assert history(run) == whole
    assert list(run.portions()) == [], "after the last epoch"


def test_twins_are_trained_alongside_and_told_apart() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    moved = bank.rounded_otherwise(1), val.rounded_otherwise(2)
    training = Training(config(), bank, val, [0, 1], twins=[Run(config(), *moved, 1)])
    training.finish()
    assert [row["seed"] for row in training.history] == [0, 0, 0, 1, 1, 1]
    assert [row["seed"] for row in training.twin_history] == [1, 1, 1]
    for twin, original in zip(training.twin_history, training.history[3:], strict=True):
        assert twin["train_loss"] == pytest.approx(original["train_loss"], rel=1e-3)
    assert any(
        twin["train_loss"] != original["train_loss"]
        for twin, original in zip(training.twin_history, training.history[3:], strict=True)
    )


def test_a_run_that_diverges_beside_others_is_told() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    training = Training(config(), bank, val, [0, 1])
    with torch.no_grad():
        training.runs[0].module.get_parameter("heads.0.weight").fill_(math.nan)
    with pytest.raises(UserError, match=r"Model1 \(seed 0\) is nan in epoch 1"):
        training.epoch()
