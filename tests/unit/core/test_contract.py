"""What a student must be: refused in a sentence that names it, before it is trained, or trained as it is."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.cost import cost
from kvbench.core.losses import distillation_loss
from kvbench.core.module import state
from kvbench.core.numerics import RandomState
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness.interrupts import Stopped
from kvbench.utils.errors import UserError, best_effort
from tests.support.trainer import WIDTHS, config, history, mine, random_bank

D, K = WIDTHS[-1], 5
CPU = torch.device("cpu")
TRAIN, VAL = random_bank(130), random_bank(40, seed=1)  # the last of three batches has 2 samples
Forward = Callable[[Any, Any], Any]  # the head and the features


class Head(nn.Module):
    """A Linear on the deepest tap, and any forward pass."""

    def __init__(self, forward: Forward = lambda head, xs: head(xs[-1]), dtype: torch.dtype | None = None):
        super().__init__()
        self.head, self.function = nn.Linear(D, K, dtype=dtype), forward

    def forward(self, xs: list[Tensor]) -> Any:
        return self.function(self.head, xs)


def train(make: Callable[..., Any], bank: FeatureBank = TRAIN, seeds: Sequence[int] = (0, 1)) -> Training:
    """The training of a student."""
    return Training(config(mine(make), batch_size=64), bank, VAL, seeds)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for (_, a), (_, b) in zip(state(one), state(other), strict=True))


def only_in(forward: Forward, training: bool) -> Forward:
    """A forward pass for one mode."""
    return lambda head, xs: forward(head, xs) if torch.is_grad_enabled() == training else head(xs[-1])


REFUSED: dict[str, tuple[Forward, str]] = {
    "(1, K)": (lambda h, xs: h(xs[-1]).mean(0, keepdim=True), r"returns a tensor of shape \(1, 5\) in training mode"),
    "(B, 1)": (lambda h, xs: h(xs[-1])[:, :1], r"returns a tensor of shape \(64, 1\)"),
    "(B,)": (lambda h, xs: h(xs[-1])[:, 0], r"returns a tensor of shape \(64,\)"),
    "(K,)": (lambda h, xs: h(xs[-1])[0], r"returns a tensor of shape \(5,\)"),
    "K + 1": (lambda h, xs: F.pad(h(xs[-1]), (0, 1)), r"shape \(64, 6\).*here \(64, 5\)"),
    "(B, K, 1)": (lambda h, xs: h(xs[-1])[..., None], r"shape \(64, 5, 1\)"),
    "a scalar": (lambda h, xs: h(xs[-1]).sum(), r"shape \(\)"),
    "a tuple": (lambda h, xs: (h(xs[-1]), None), r"returns tuple in"),
    "a list": (lambda h, xs: [h(xs[-1])], r"returns list in"),
    "a dict": (lambda h, xs: {"logits": h(xs[-1])}, r"returns dict in"),
    "None": (lambda h, xs: None, r"returns NoneType in"),
    "half": (lambda h, xs: h(xs[-1]).half(), r"returns a tensor of float16"),
    "bfloat16": (lambda h, xs: h(xs[-1]).bfloat16(), r"returns a tensor of bfloat16"),
    "double": (lambda h, xs: h(xs[-1]).double(), r"returns a tensor of float64"),
    "integers": (lambda h, xs: h(xs[-1]).long(), r"returns a tensor of int64"),
    "complex": (lambda h, xs: h(xs[-1]) + 0j, r"returns a tensor of complex64"),
    "sparse": (lambda h, xs: h(xs[-1]).to_sparse(), r"layout sparse_coo"),
    "on another device": (lambda h, xs: h(xs[-1]).to("meta"), r"returns a tensor on meta"),
    "not finite": (lambda h, xs: h(xs[-1]) / 0, r"not finite in training mode, before it is trained"),
    "numpy": (lambda h, xs: h(xs[-1]).detach().numpy(), r"returns ndarray"),
    "no features": (lambda h, xs: h.bias.expand(len(xs[-1]), K), r"the same logits whatever the features are"),
    "zeros": (lambda h, xs: h.weight.new_zeros(len(xs[-1]), K) * h.bias, "the same logits whatever the features are"),
    "one size": (lambda h, xs: F.pad(h(xs[-1]), (0, 0, 0, 64 - len(xs[-1]))), r"shape \(64, 5\).*\(2, 5\)"),
    "detached": (lambda h, xs: h(xs[-1]).detach(), r"None of the 2 trainable parameters of"),
    "no_grad": (torch.no_grad()(lambda h, xs: h(xs[-1])), r"nothing would be trained"),
    "in place": (lambda h, xs: h(xs[-1].relu_()), r"changes its input in place \(tap 3 of 3\) in training mode"),
    "in place, a view": (lambda h, xs: h(xs[-1]) + xs[0][:, :1].mul_(2), r"in place \(tap 1 of 3\)"),
    "in place, evaluated": (only_in(lambda h, xs: h(xs[-1].relu_()), False), "in place .* in evaluation mode"),
    "(1, K), evaluated": (only_in(lambda h, xs: h(xs[-1])[:1], False), r"shape \(1, 5\) in evaluation mode"),
    "a shape": (lambda h, xs: h(xs[0]), r"fails in training mode on a batch of 64 samples: RuntimeError: mat1"),
    "a name": (lambda h, xs: h(xs.deepest), r"AttributeError: 'list' object has no attribute 'deepest'"),
    "gradients off": (lambda h, xs: (h(xs[-1]), torch.set_grad_enabled(False))[0], "turns gradients off for all that"),
    "a tap too many": (lambda h, xs: h(xs[7]), r"IndexError: list index out of range"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_student_returns_or_does_is_refused_in_a_sentence(case: str) -> None:
    forward, words = REFUSED[case]
    before = RandomState(CPU)
    with pytest.raises(UserError, match=f"[Tt]he student Mine .*{words}|^{words}") as told:
        train(lambda *_: Head(forward))
    assert "Mine" in str(told.value)
    assert "\n" not in str(told.value)
    assert RandomState(CPU) == before


class Listed(nn.Module):
    """A head that is registered, and what else is read."""

    def __init__(self, other: Callable[[Any, list[Tensor]], Tensor]):
        super().__init__()
        self.head, self.listed, self.other = nn.Linear(D, K), [nn.Linear(D, K)], other
        self.tensor = torch.ones(K, requires_grad=True)

    def forward(self, xs: list[Tensor]) -> Tensor:
        out: Tensor = self.other(self, xs) + self.head(xs[-1])
        return out


def replaced(module: Any, xs: list[Tensor]) -> Tensor:
    module.head.weight = nn.Parameter(module.head.weight.detach() * 1)
    return xs[-1].new_zeros(K)


@pytest.mark.parametrize(
    ("other", "shape"),
    [
        (lambda m, xs: m.listed[0](xs[-1]), r"\(5,?( 6)?\)"),
        (lambda m, xs: m.tensor, r"\(5,\)"),
        (replaced, r"\(5, 6\)"),
    ],
)
def test_what_would_not_be_trained_is_refused_by_its_shape(other: Any, shape: str) -> None:
    with pytest.raises(UserError, match=rf"reads a tensor of shape {shape} that requires gradients and would not be"):
        train(lambda widths, k: Listed(other))


def test_a_student_that_sets_its_own_seed_is_noted() -> None:
    def make(widths: object, k: int) -> nn.Module:
        torch.manual_seed(0)
        return Head()

    (note,) = train(make).notes
    assert note == "Mine sets torch's seed itself when it is made, so what it draws is the same for every seed"
    assert not train(make, seeds=[3]).notes
    assert not train(lambda widths, k: Head()).notes


def test_what_is_not_to_be_trained_may_lie_anywhere() -> None:
    def make(widths: object, k: int) -> nn.Module:
        module = Listed(lambda m, xs: m.listed[0](xs[-1]) + m.tensor)
        module.tensor.requires_grad_(False)
        for parameter in module.listed[0].parameters():
            parameter.requires_grad_(False)
        return module

    assert not train(make).notes


@pytest.mark.parametrize("shape", [(1, K), (64, 1), (K,), (), (64, K, 1), (2, 64, K)])
def test_logits_are_never_repeated_to_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"logits have the shape .*, the teacher's .*: both are \(B, K\)"):
        distillation_loss(torch.zeros(shape), torch.zeros(64, K))
    late = count()
    training = train(lambda *_: Head(lambda h, xs: h(xs[-1]) if next(late) < 15 else h(xs[-1])[:1]))
    with pytest.raises(UserError, match=r"logits have the shape \(1, 5\)"):
        training.finish()


def test_a_bank_is_left_alone_by_a_student_that_writes_into_its_inputs() -> None:
    """Later than it can be noticed."""
    bank = random_bank(40)
    before = bank.digest
    for rows in (slice(0, 20), torch.arange(20)):
        xs, logits, _ = bank.batch(rows)
        for x in (*xs, logits):
            x.zero_()
    assert bank.digest == before


def raising(*_: object) -> nn.Module:
    raise ValueError("no such file")


ONE = Head()
SHARED = nn.Parameter(torch.zeros(K))


def shares() -> nn.Module:
    module = Head()
    module.head.bias = SHARED
    return module


def grows() -> nn.Module:
    def forward(head: Any, xs: list[Tensor]) -> Tensor:
        if not hasattr(head, "later"):
            head.later = nn.Linear(D, K)
        out: Tensor = head(xs[-1]) + head.later(xs[-1])
        return out

    return Head(forward)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Head()


def complex_weights() -> nn.Module:
    return Head(lambda h, xs: h(xs[-1].to(torch.complex64)).abs(), torch.complex64)


def sparse() -> nn.Module:
    module = Head(lambda h, xs: h.table(xs[-1].argmax(1)) + h(xs[-1]))
    module.head.table = nn.Embedding(D, K, sparse=True)
    return module


def unused_lazy() -> nn.Module:
    module = Head()
    module.head.lazy = nn.LazyLinear(3)
    return module


def expanded() -> nn.Module:
    module = Head()
    module.head.weight = nn.Parameter(torch.randn(K, 1).expand(K, D))
    return module


CALLS = count()


def another_each_time() -> nn.Module:
    module = Head()
    nn.init.constant_(module.head.bias, next(CALLS))
    return module


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (raising, r"cannot be made: its make\(\[4, 6, 6\], 5\) raises ValueError: no such file"),
        (lambda: ONE, r"cannot be made: .* raises TypeError: .*takes 0 positional arguments but 2 were given"),
        (lambda *_: None, "returns NoneType; valid is a torch.nn.Module"),
        (lambda *_: Head, "returns type; valid is a torch.nn.Module"),
        (lambda *_: torch.relu, "returns builtin_function_or_method; valid"),
        (lambda *_: ONE, "is the same module for every seed"),
        (lambda *_: shares(), "shares parameters or buffers between seeds"),
        (lambda *_: another_each_time(), "differs each time it is made with the same seed"),
        (lambda *_: grows(), r"requires gradients and would not be trained, .* make parameters in __init__"),
        (
            lambda *_: Head(lambda h, xs: (h(xs[-1]), h.register_buffer("b", h.bias.detach()))[0]),
            "makes parameters or b",
        ),
        (lambda *_: on_meta(), r"has head.weight on the meta device"),
        (lambda *_: complex_weights(), r"trains head.weight, which is complex64; valid are real"),
        (lambda *_: expanded(), r"trains head.weight, of which several numbers lie in one place .*: make it of a copy"),
        (lambda *_: Head(dtype=torch.float64), r"fails in training mode .*RuntimeError: .*dtype"),
        (lambda *_: sparse(), r"fails in a training step on a batch of 64 samples: \w+Error: .*sparse"),
        (lambda *_: unused_lazy(), "lazy parameter head.lazy.weight that its forward pass does not use"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused_in_a_sentence(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^The student Mine .*{words}"):
        train(make)


def test_memory_that_runs_out_is_no_fault_of_the_student() -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        train(lambda *_: Head(lambda h, xs: torch.empty(2**60)))
    with pytest.raises(RuntimeError, match="allocate"):
        train(lambda *_: torch.empty(2**60))


def test_a_signal_is_no_fault_of_the_student() -> None:
    def stop(*_: object) -> Any:
        raise Stopped("Ctrl-C", 2)

    for make in (stop, lambda *_: Head(stop)):
        with pytest.raises(Stopped, match="Ctrl-C"):
            train(make)
        with pytest.raises(Stopped, match="Ctrl-C"):
            cost(mine(make), WIDTHS, K)
    with pytest.raises(Stopped, match="Ctrl-C"), best_effort("describe"):
        stop()


def normalised() -> nn.Module:
    module = Head(lambda h, xs: h.norm(h(xs[-1])))
    module.head.norm = nn.BatchNorm1d(K)
    return module


def test_a_last_batch_of_one_sample_is_told_where_the_student_takes_none() -> None:
    words = (
        r"Mine fails in training mode on a batch of 1 sample \(ValueError: Expected more than 1 value .*another batch"
    )
    with pytest.raises(UserError, match=words):
        train(lambda *_: normalised(), random_bank(129))
    assert len(history(train(lambda *_: normalised()))) == 6
    assert len(history(train(lambda *_: Head(), random_bank(129)))) == 6


def test_features_that_are_not_finite_are_named() -> None:
    bank = random_bank(130)
    bank.taps[-1][3, 2] = float("nan")
    with pytest.raises(UserError, match="Mine returns logits that are not finite in training mode, since the features"):
        train(lambda *_: Head(), bank)


# What is trained as it is


def test_checking_changes_neither_numbers_nor_state() -> None:
    before = RandomState(CPU)
    training = train(lambda *_: normalised())
    assert RandomState(CPU) == before
    (run, _), alone = training.runs, Run(training.configuration, TRAIN, VAL, 0)
    assert all(
        torch.equal(one, other) for (_, one), (_, other) in zip(state(run.module), state(alone.module), strict=True)
    )
    assert run.module.get_buffer("head.norm.num_batches_tracked") == 0
    assert not run.optimizer.state
    assert history(training)[:3] == history(alone)
    assert RandomState(CPU) == before


def test_zeros_at_the_start_and_lookups_are_legitimate() -> None:
    def zeros() -> nn.Module:
        module = Head()
        nn.init.zeros_(module.head.weight)
        return module

    def lookup() -> nn.Module:
        module = Head(lambda h, xs: h.table(xs[-1].argmax(1)))
        module.head.table = nn.Embedding(D, K)
        return module

    for make in (zeros, lookup):
        losses = [row["val_loss"] for row in history(train(lambda *_, make=make: make()))[:3]]
        assert losses[0] > losses[1] > losses[2]


def test_without_trainable_parameters_every_epoch_is_measured_and_nothing_stepped() -> None:
    def closed_form() -> nn.Module:
        module = Head()
        return module.requires_grad_(False)

    training = train(lambda *_: closed_form(), random_bank(128))
    rows = history(training)
    assert [row["epoch"] for row in rows] == [1, 2, 3] * 2
    assert all(row["train_loss"] > 0 for row in rows)
    assert rows[0]["val_loss"] == rows[1]["val_loss"] == rows[2]["val_loss"]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"])
    assert rows[0]["val_loss"] != rows[3]["val_loss"]

    class Nothing(nn.Module):
        def forward(self, xs: list[Tensor]) -> Tensor:
            return xs[-1][:, :K]

    rows = history(train(lambda *_: Nothing()))
    assert rows[0]["val_loss"] == rows[3]["val_loss"]


def test_the_seed_decides_lazy_weights_and_those_drawn_by_numpy_and_python() -> None:
    def lazy() -> nn.Module:
        module = Head(lambda h, xs: h(torch.tanh(h.lazy(xs[-1]))))
        module.head.lazy = nn.LazyLinear(D)
        return module

    def others() -> nn.Module:
        module = Head()
        module.head.bias = nn.Parameter(torch.from_numpy(np.random.rand(K)).float() + random.random())
        return module

    for make in (lazy, others):
        first, again = train(lambda *_, make=make: make()), None
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        again = train(lambda *_, make=make: make())
        assert all(
            torch.equal(a, b)
            for a, b in zip(first.runs[0].module.parameters(), again.runs[0].module.parameters(), strict=True)
        )
        assert not all(
            torch.equal(a, b)
            for a, b in zip(first.runs[0].module.parameters(), first.runs[1].module.parameters(), strict=True)
        )
        assert history(first) == history(again)
        weights = list(first.runs[0].module.parameters())
        assert {id(p) for group in first.runs[0].optimizer.param_groups for p in group["params"]} == set(
            map(id, weights)
        )


# Random numbers


def dropping() -> nn.Module:
    return Head(
        lambda h, xs: h(F.dropout(xs[-1], 0.3)) + (np.random.rand() + random.random() if torch.is_grad_enabled() else 0)
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_student_that_draws_random_numbers_repeats_seed_by_seed(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        training = train(lambda *_: dropping(), seeds=(3, 4))
        rows = history(training)
        torch.rand(9), np.random.rand(9), random.random()
        alone = history(train(lambda *_: dropping(), seeds=(4,)))
    finally:
        torch.set_num_threads(before)
    assert rows[3:] == alone
    assert rows[0]["train_loss"] != rows[3]["train_loss"]
    assert training.notes == [
        "Mine draws random numbers while it is trained: each seed has its own, and seeds take turns"
    ]
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING].count(f"{training.notes[0]}.") == 2


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = RandomState(CPU)
    history(train(lambda *_: dropping()))
    assert RandomState(CPU) == before


def test_numbers_that_cannot_be_repeated_are_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    fresh = np.random.default_rng()
    training = train(lambda *_: Head(lambda h, xs: h(xs[-1]) + float(fresh.random())))
    assert training.notes == [
        "Mine gives other logits when it is trained again from the same seed: its numbers do not repeat"
    ]

    late = count()
    training = train(lambda *_: Head(lambda h, xs: h(xs[-1]) if next(late) < 20 else h(F.dropout(xs[-1]))))
    assert training.notes == []
    training.finish()
    assert training.notes == ["Mine draws random numbers in some of its steps: its numbers do not repeat"]
    assert len([r for r in caplog.records if "do not repeat" in r.message]) == 2


def test_state_that_a_forward_pass_changes_is_no_random_number() -> None:
    def spectral() -> nn.Module:
        module = Head()
        nn.utils.parametrizations.spectral_norm(module.head)  # a step of an iteration in every forward pass
        return module

    for make in (spectral, normalised):
        assert train(lambda *_, make=make: make()).notes == []


@pytest.mark.parametrize("name", [f"Model{i}" for i in range(1, 8)])
def test_the_students_of_the_table_keep_to_it(name: str) -> None:
    training = Training(replace(config(name)), TRAIN, VAL, [0, 1])
    assert training.notes == []
    assert [run.draws for run in training.runs] == [False, False]
