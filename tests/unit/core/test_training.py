"""Epochs and seeds of a training, alone and side by side, and what goes wrong."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from tests.support.trainer import ROW, SCHEDULED, config, fresh, history, random_bank

# Epochs


def test_rows_have_the_columns_of_the_history_frame() -> None:
    run = fresh(config("Model3", **SCHEDULED), seed=7)
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
    seen: list[tuple[int, int]] = []
    bank, val = random_bank(), random_bank(40, seed=1)
    training = Training(config(), bank, val, [4, 2])
    training.on_epoch = lambda run: seen.append((run.seed, len(run.history)))
    together = history(training)
    assert [sorted(seen[i : i + 2]) for i in (0, 2, 4)] == [[(2, 1), (4, 1)], [(2, 2), (4, 2)], [(2, 3), (4, 3)]]
    assert together == history(Run(config(), bank, val, 4)) + history(Run(config(), bank, val, 2))
    training.epoch()
    training.evaluate()
    assert len(seen) == 6


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


def test_seeds_that_are_behind_catch_up_before_the_others_go_on() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    whole = history(Training(config(), bank, val, [0, 1]))
    training = Training(config(), bank, val, [0, 1])
    for _ in range(2):
        training.runs[1].epoch()
        training.runs[1].evaluate()
    assert training.epochs_left == 3
    for left, done in ((2, [1, 2]), (1, [2, 2]), (0, [3, 3]), (0, [3, 3])):
        training.epoch()
        training.evaluate()
        assert (training.epochs_left, [run.epochs_done for run in training.runs]) == (left, done)
    assert history(training) == whole


# Seeds


@pytest.mark.parametrize("name", [row.name for row in STUDY.students])
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
    run = fresh(config(**SCHEDULED), seed=8)
    run.epoch()
    run.evaluate()
    rows = torch.randperm(150, generator=run.order.clone_state()).tolist()
    run.train.taps[-1][rows[70], 2] = value  # in the second batch of 64
    with pytest.raises(UserError, match=r"lr_Model1 \(seed 8\) is (nan|inf) in epoch 2, step 2: try a smaller lr"):
        run.epoch()
    assert [row["epoch"] for row in run.history] == [1], "what was trained before is kept"


def test_too_few_taps_are_told_before_training() -> None:
    bank = replace(random_bank(), taps=random_bank().taps[1:])
    with pytest.raises(UserError, match=r"Model7 reads the taps -3, -2, -1, there are 2"):
        Run(config("Model7"), bank, bank, 0)


@pytest.mark.parametrize("name", [row.name for row in STUDY.students])
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
    assert len(synchronised) in {2, 4, 6}, "before and after each of at most three chunks is timed"
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

    def chunks(_: Run) -> Iterator[None]:
        met.append(meeting.wait())  # each waits for the other: one alone would fail
        yield

    monkeypatch.setattr(Run, "chunks", chunks)
    torch.set_num_threads(2)
    try:
        Training(config(), random_bank(), random_bank(40, seed=1), [0, 1]).epoch()
    finally:
        torch.set_num_threads(before)
    assert sorted(met) == [0, 1]


def test_an_epoch_pauses_between_chunks_and_gives_the_same_history(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = history(fresh())
    monkeypatch.setattr("kvbench.core.run.CHUNK", 2)
    run = fresh()
    assert len(list(run.chunks())) == 2, "3 batches of 64"
    run.evaluate()
    assert history(run) == whole
    assert list(run.chunks()) == [], "after the last epoch"


def test_replicates_are_trained_alongside_and_told_apart() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    moved = bank.perturbed(1), val.perturbed(2)
    training = Training(config(), bank, val, [0, 1], replicates=[Run(config(), *moved, 1)])
    training.finish()
    assert [row["seed"] for row in training.history] == [0, 0, 0, 1, 1, 1]
    assert [row["seed"] for row in training.replicate_history] == [1, 1, 1]
    for replicate, original in zip(training.replicate_history, training.history[3:], strict=True):
        assert replicate["train_loss"] == pytest.approx(original["train_loss"], rel=1e-3)
    assert any(
        replicate["train_loss"] != original["train_loss"]
        for replicate, original in zip(training.replicate_history, training.history[3:], strict=True)
    )


def test_a_run_that_diverges_beside_others_is_told() -> None:
    bank, val = random_bank(), random_bank(40, seed=1)
    training = Training(config(), bank, val, [0, 1])
    with torch.no_grad():
        training.runs[0].module.get_parameter("heads.0.weight").fill_(math.nan)
    with pytest.raises(UserError, match=r"Model1 \(seed 0\) is nan in epoch 1"):
        training.epoch()
