"""Students that are made from the training bank: caches, closed forms, and those that would change it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.cost import cost
from kvbench.core.module import state
from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.core.trainer import Training
from kvbench.harness import checkpoint
from kvbench.utils.errors import UserError
from tests.support.trainer import WIDTHS, config, history, random_bank

BANK, VAL = random_bank(130), random_bank(40, seed=1)
D, K = WIDTHS[-1], BANK.classes
MakeFrom = Callable[[FeatureBank], nn.Module]


class Cache(nn.Module):
    """The classes of all training images, weighted by their similarity (Tip-Adapter's cache)."""

    def __init__(self, bank: FeatureBank, *, trained: bool = False):
        super().__init__()
        (features,), _, labels = bank.batch(slice(None))
        self.keys = nn.Parameter(F.normalize(features), trained)
        self.register_buffer("values", F.one_hot(labels, bank.classes).float())

    def forward(self, xs: list[Tensor]) -> Tensor:
        return ((F.normalize(xs[-1]) @ self.keys.T - 1) * 5.5).exp() @ self.get_buffer("values")


def nearest(bank: FeatureBank) -> nn.Module:
    """The teacher's logits of the nearest training image, of a bank that it keeps and only reads."""

    class Nearest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self, xs: list[Tensor]) -> Tensor:
            return self.bank.logits[torch.cdist(xs[-1], self.bank.taps[-1]).argmin(1)]

    return Nearest()


def ridge(bank: FeatureBank) -> nn.Module:
    """A Linear that begins at the least squares fit of the teacher's logits, and is trained from there."""
    (x,), logits, _ = bank.batch(slice(None))
    head = nn.Linear(x.shape[1], bank.classes, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ logits).T)
    return Head(head)


class Head(nn.Module):
    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, xs: list[Tensor]) -> Tensor:
        out: Tensor = self.head(xs[-1])
        return out


def student(make_from: MakeFrom) -> Student:
    return Student("Mine", make_from=make_from)


def train(make_from: MakeFrom, bank: FeatureBank = BANK) -> Training:
    return Training(config(student(make_from), batch_size=64), bank, VAL, [0, 1])


def trained(make_from: MakeFrom) -> Training:
    training = train(make_from)
    training.finish()
    return training


@pytest.mark.parametrize("make_from", [Cache, nearest])
def test_without_trainable_parameters_it_is_evaluated_at_every_epoch_and_stays(make_from: MakeFrom) -> None:
    training = trained(make_from)
    assert len(training.history) == 2 * 3
    assert len({(row["val_loss"], row["val_accuracy"]) for row in training.history}) == 1
    assert training.notes == []


def test_a_cache_gives_the_logits_of_its_formula() -> None:
    run = Run(config(student(Cache)), BANK, VAL, 0)
    assert set(dict(state(run.module))) == {"keys", "values"}
    x = VAL.taps[-1]
    found = run.module([x])
    similar = F.cosine_similarity(x[:, None], BANK.taps[-1][None], dim=2)
    expected = torch.stack([((5.5 * (similar - 1)).exp() * (BANK.labels == k)).sum(1) for k in range(K)], 1)
    torch.testing.assert_close(found, expected)


def test_the_nearest_neighbour_of_a_training_image_is_itself() -> None:
    run = Run(config(student(nearest), epochs=1), BANK, BANK, 0)
    assert history(run)[0]["agreement"] == 1.0
    assert history(run)[0]["val_loss"] == pytest.approx(0, abs=1e-6)


def test_a_closed_form_is_trained_from_where_it_begins() -> None:
    random, fitted = (
        Training(config(row, lr=1e-3), BANK, VAL, [0])
        for row in (Student("Mine", lambda widths, classes: Head(nn.Linear(D, classes))), student(ridge))
    )
    random.finish()
    fitted.finish()
    assert fitted.history[0]["train_loss"] < random.history[0]["train_loss"]
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


def test_a_trained_cache_learns_in_memory_of_its_own() -> None:
    before = BANK.digest
    training = trained(lambda bank: Cache(bank, trained=True))
    assert training.history[2]["train_loss"] < training.history[0]["train_loss"]
    assert BANK.digest == before
    one, other = (dict(run.module.named_parameters())["keys"] for run in training.runs)
    assert not torch.equal(one, other), "each seed has its own"


def makes_of_the_bank(bank: FeatureBank) -> nn.Module:
    bank.taps[-1].sub_(bank.taps[-1].mean(0))
    return Head(nn.Linear(D, K))


def trains_the_bank(bank: FeatureBank) -> nn.Module:
    module = Cache(bank)
    module.keys = nn.Parameter(bank.taps[-1])
    return module


def buffers_the_bank(bank: FeatureBank) -> nn.Module:
    class Running(Head):
        def forward(self, xs: list[Tensor]) -> Tensor:
            self.get_buffer("kept").mul_(0.5)
            return super().forward(xs)

    module = Running(nn.Linear(D, K))
    module.register_buffer("kept", bank.logits)
    return module


def writes_when_evaluated(bank: FeatureBank) -> nn.Module:
    class Forgetful(Head):
        def forward(self, xs: list[Tensor]) -> Tensor:
            if not self.training:
                bank.labels.zero_()
            return super().forward(xs)

    return Forgetful(nn.Linear(D, K))


@pytest.mark.parametrize("make_from", [makes_of_the_bank, trains_the_bank, buffers_the_bank, writes_when_evaluated])
def test_who_would_change_the_bank_is_refused_before_it_does(make_from: MakeFrom) -> None:
    before = BANK.digest
    with pytest.raises(UserError, match="The student Mine changes the training bank that it is made from, on which"):
        train(make_from)
    assert BANK.digest == before


SHARED = Cache(BANK.select((-1,)))
REFUSED: dict[str, tuple[Any, str]] = {
    "no module": (lambda bank: bank.taps[0], "its make_from(bank) returns Tensor; valid is a torch.nn.Module."),
    "fails": (lambda bank: Head(nn.Linear(bank.width, K)),
              "its make_from(bank) raises AttributeError: 'FeatureBank' object has no attribute 'width'. Valid is a"
              " function of the training bank."),
    "another shape": (lambda bank: Head(nn.Linear(D, K + 1)), "(64, 6)"),
    "one module": (lambda bank: SHARED, "its make must return a new one at each call"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_checked_like_any_other_student(name: str) -> None:
    make_from, sentence = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(sentence)):
        train(make_from)


def test_a_replicate_is_made_from_the_perturbed_bank() -> None:
    perturbed = BANK.perturbed()
    plain, other = (Run(config(student(Cache)), bank, VAL, 0) for bank in (BANK, perturbed))
    torch.testing.assert_close(other.module.get_parameter("keys"), plain.module.get_parameter("keys"))
    assert not torch.equal(other.module.get_parameter("keys"), plain.module.get_parameter("keys"))


@pytest.mark.parametrize("make_from", [lambda bank: Cache(bank, trained=True), ridge, nearest])
def test_an_interrupted_run_goes_on_bit_by_bit(make_from: MakeFrom, tmp_path: Path) -> None:
    configuration = config(student(make_from))
    undisturbed = Run(configuration, BANK, VAL, 0)
    expected = history(undisturbed)
    first, then = (Run(configuration, BANK, VAL, 0) for _ in range(2))
    first.epoch()
    first.evaluate()
    checkpoint.save(first, tmp_path / "state", "key")
    checkpoint.restore(then, tmp_path / "state", "key")
    assert then.epochs_done == 1
    assert history(then) == expected


def test_its_cost_is_counted_on_its_own_bank() -> None:
    bank = BANK.select((-1,))
    counted = cost(student(Cache), bank.widths, K, bank)
    assert (counted.parameters, counted.trainable) == (len(BANK) * D, 0)
    assert counted.flops_per_sample == 2 * len(BANK) * (D + K)
    assert cost(student(Cache), bank.widths, K).parameters is None, "unknown without a bank"
    fitted = cost(student(ridge), bank.widths, K, bank)
    assert fitted.flops_per_sample == 2 * D * K, "what making it computes is not part of a forward pass"


def test_a_bank_of_halves_is_read_in_float32() -> None:
    halves = replace(BANK, taps=tuple(tap.bfloat16() for tap in BANK.taps), logits=BANK.logits.bfloat16())
    training = train(Cache, halves)
    training.finish()
    assert training.runs[0].module.get_parameter("keys").dtype == torch.float32
