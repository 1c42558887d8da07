"""A run that stops and goes on ends bit by bit as one that does not, whatever student and optimiser keep."""

from __future__ import annotations

import array
import itertools
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.core.trainer import Training
from kvbench.harness import checkpoint
from kvbench.utils.errors import UserError
from tests.support.trainer import config, history, random_bank
from tests.support.trials import FACTOR

D, K = 16, 5  # of the one tap
Make = Callable[[], nn.Module]
Optimizer = Callable[[Run], torch.optim.Optimizer]


class Head(nn.Module):
    """Reads the deepest tap with one weight (D, K), however it lies in memory, and what is added."""

    def __init__(self, weight: Tensor, **more: Tensor | nn.Parameter):
        super().__init__()
        self.weight = nn.Parameter(weight)
        for name, value in more.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        self.more = list(more)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out = xs[-1] @ self.weight.float()
        for name in self.more:
            value = getattr(self, name)
            value = value.real if value.is_complex() else value.float()
            out = out + (value.sum() if value.ndim != 1 else value)
        return out


class Function(nn.Module):
    """A module of others, with a function for its forward pass."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **parts: nn.Module):
        super().__init__()
        self.parts, self.function = nn.ModuleDict(parts), forward

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return self.function(self.parts, xs[-1])


class Warming(nn.Module):
    """Counts its steps in an extra state, and follows them in a buffer that no state dict has."""

    steps: int
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head, self.steps = nn.Linear(D, K), 0
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "pair": (1, [2.5, None, "text", True])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        assert state["pair"] == (1, [2.5, None, "text", True])

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        if self.training:
            self.steps += 1
            self.scale = self.scale * 0.99  # a new tensor
        out: Tensor = self.head(xs[-1]) * self.scale / (1 + 0.1 * self.steps)
        return out


class Noisy(nn.Module):
    """Draws from every global generator while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, K)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.head(F.dropout(xs[-1], 0.3, self.training))
        return out + (random.random() + float(np.random.rand()) if self.training else 0)


def randn(*size: int) -> Tensor:
    return torch.randn(size) / 4


def one_memory() -> nn.Module:
    flat = randn(D * K + K)
    return Head(flat[: D * K].view(K, D).t(), bias=nn.Parameter(flat[D * K :]), seen=flat[:K])


def tied() -> nn.Module:
    first, second = nn.Linear(D, D), nn.Linear(D, D)
    second.weight = first.weight
    return Function(
        lambda p, x: p["head"](p["two"](torch.tanh(p["one"](x)))), one=first, two=second, head=nn.Linear(D, K)
    )


def convolution() -> nn.Module:
    conv = nn.Conv2d(4, K, 2).to(memory_format=torch.channels_last)
    return Function(lambda p, x: p["conv"](x.view(-1, 4, 2, 2)).flatten(1), conv=conv)


def normalised() -> nn.Module:
    return Function(lambda p, x: p["head"](p["norm"](x)), norm=nn.BatchNorm1d(D), head=nn.Linear(D, K))


def frozen() -> nn.Module:
    module = Function(lambda p, x: p["head"](torch.tanh(p["fixed"](x))), fixed=nn.Linear(D, D), head=nn.Linear(D, K))
    module.parts["fixed"].requires_grad_(False)
    return module


def lazy() -> nn.Module:
    return Function(lambda p, x: p["head"](torch.tanh(p["lazy"](x))), lazy=nn.LazyLinear(7), head=nn.LazyLinear(K))


def recurrent() -> nn.Module:
    return Function(
        lambda p, x: p["head"](p["lstm"](x[:, None])[0][:, 0]),
        lstm=nn.LSTM(D, 4, batch_first=True),
        head=nn.Linear(4, K),
    )


def spectral() -> nn.Module:
    return Function(lambda p, x: p["head"](x), head=nn.utils.parametrizations.spectral_norm(nn.Linear(D, K)))


MODULES: dict[str, Make] = {
    "contiguous": lambda: Head(randn(D, K)),
    "transposed": lambda: Head(randn(K, D).t()),
    "with gaps": lambda: Head(randn(D, 2 * K)[:, ::2]),
    "inside a larger one": lambda: Head(randn(3, D, K)[1]),
    "one memory": one_memory,
    "tied": tied,
    "channels_last": convolution,
    "scalar": lambda: Head(randn(K, D).t(), bias=nn.Parameter(torch.tensor(0.5))),
    "empty": lambda: Head(randn(K, D).t(), bias=nn.Parameter(torch.zeros(0, 3))),
    "expanded": lambda: Head(randn(D, K), fixed=nn.Parameter(randn(1).expand(K), requires_grad=False)),
    "half": lambda: Head(randn(K, D).t().bfloat16()),
    "double": lambda: Head(randn(K, D).t().double()),
    "complex": lambda: Head(randn(D, K), turn=torch.ones(1, dtype=torch.complex64).conj()),
    "normalised": normalised,
    "frozen": frozen,
    "lazy": lazy,
    "recurrent": recurrent,
    "spectral": spectral,
    "extra state": Warming,
    "random numbers": Noisy,
}


class Newton(torch.optim.LBFGS):
    """LBFGS without a closure, a step on the gradient that is there."""

    def step(self, closure: Any = None) -> Any:
        return super().step(lambda: torch.zeros(()))  # type: ignore[no-untyped-call]


def over(make: Callable[..., torch.optim.Optimizer], **options: Any) -> Optimizer:
    return lambda run: make([p for p in run.module.parameters() if p.requires_grad], **options)


def two_groups(run: Run) -> torch.optim.Optimizer:
    first, *rest = [p for p in run.module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 3e-2}, {"params": rest, "betas": (0.5, 0.9)}]
    return torch.optim.Adam(groups, 1e-2, fused=True)


OPTIMIZERS: dict[str, Optimizer] = {
    "the trainer's": lambda run: run.optimizer,
    "two groups": two_groups,
    "Adam, foreach, amsgrad": over(torch.optim.Adam, lr=1e-2, foreach=True, amsgrad=True),
    "Adam, lr a tensor": lambda run: torch.optim.Adam(run.module.parameters(), lr=torch.tensor(1e-2)),
    "AdamW": over(torch.optim.AdamW, lr=1e-2),
    "Adadelta": over(torch.optim.Adadelta),
    "Adafactor": over(torch.optim.Adafactor),
    "Adagrad": over(torch.optim.Adagrad),
    "Adamax": over(torch.optim.Adamax),
    "ASGD": over(torch.optim.ASGD),
    "NAdam": over(torch.optim.NAdam),
    "RAdam": over(torch.optim.RAdam),
    "RMSprop": over(torch.optim.RMSprop, lr=1e-3, momentum=0.9, centered=True),
    "Rprop": over(torch.optim.Rprop),
    "SGD": over(torch.optim.SGD, lr=1e-2),
    "SGD, momentum, fused": over(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True, fused=True),
    "LBFGS": over(Newton, lr=0.1, max_iter=1, history_size=3),
}


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[[Make, Optimizer], Run]:
    train, val = random_bank(70), random_bank(20, seed=1)
    banks = [type(b)((torch.cat([*b.taps], 1),), b.logits, b.labels) for b in (train, val)]

    def begin(make: Make, optimizer: Optimizer) -> Run:
        row = Student("Mine", lambda *_: make())
        run = Run(config(row, epochs=3, batch_size=32, schedule="step"), banks[0], banks[1], 3)
        run.optimizer = optimizer(run)  # whichever: a run only steps it
        run.scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2, 0.5)
        return run

    return begin


def laid_out(run: Run) -> list[Any]:
    """All tensors and values of student and optimiser, with their layouts."""
    storages = checkpoint.Storages()
    everything = storages.encode(checkpoint._state(run), "it")
    return [everything, {name: value.tolist() for name, value in storages.contents().items()}]


NOT_OF_TORCH = {  # what torch itself cannot train
    *((module, "LBFGS") for module in ("transposed", "one memory", "channels_last", "scalar", "half", "double")),
    ("empty", "LBFGS"),
    ("empty", "Adafactor"),
}


EVERY = max(1, round(3 / FACTOR))  # each module with a third of the optimisers, and with KVBENCH_TRIALS=3 with all


@pytest.mark.parametrize("name", MODULES)
def test_a_run_goes_on_bit_by_bit(begin: Callable[[Make, Optimizer], Run], name: str, tmp_path: Path) -> None:
    failed, make = set(), MODULES[name]
    tried = dict([*OPTIMIZERS.items()][[*MODULES].index(name) % EVERY :: EVERY])
    for kind, optimizer in tried.items():
        undisturbed = begin(make, optimizer)
        try:
            rows = history(undisturbed)
        except (RuntimeError, ZeroDivisionError):
            failed.add((name, kind))
            continue
        stopped = begin(make, optimizer)
        for _ in range(2):
            stopped.epoch()
            stopped.evaluate()
        checkpoint.save(stopped, tmp_path / "state", "key")
        torch.rand(3)
        later = begin(make, optimizer)
        checkpoint.restore(later, tmp_path / "state", "key")
        assert history(later) == rows, kind
        assert laid_out(later) == laid_out(undisturbed), kind
    assert failed == {(module, kind) for module, kind in NOT_OF_TORCH if module == name and kind in tried}


def test_what_is_shared_stays_shared(begin: Callable[[Make, Optimizer], Run], tmp_path: Path) -> None:
    run = begin(one_memory, OPTIMIZERS["the trainer's"])
    run.epoch()
    run.evaluate()
    checkpoint.save(run, tmp_path / "state", "key")
    later = begin(one_memory, OPTIMIZERS["the trainer's"])
    checkpoint.restore(later, tmp_path / "state", "key")
    with torch.no_grad():
        later.module.get_parameter("weight").fill_(7)
    assert later.module.get_buffer("seen").tolist() == [7] * K


class Slots:
    """An object without ``__dict__``."""

    __slots__ = ("n",)

    def __init__(self, n: int):
        self.n = n

    def add(self, n: int) -> None:
        self.n += n


def counter() -> Callable[[], int]:
    """A function that counts in a variable of its own."""
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


class Counting(nn.Module):
    """Keeps what it counts in ``kept``."""

    def __init__(self, kept: Any, count: Callable[[Any], Any]):
        super().__init__()
        self.head, self.kept, self.count = nn.Linear(D, K), kept, count

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        if self.training:
            self.kept = self.count(self.kept)
        out: Tensor = self.head(xs[-1])
        return out


@pytest.mark.parametrize(
    ("kept", "count"),
    [
        (lambda: 0, lambda n: n + 1),
        (lambda: torch.zeros(2), lambda t: t.add_(1)),
        (lambda: [torch.zeros(2)], lambda t: [t[0] + 1]),
        (lambda: {"a": {"b": 1}}, lambda d: {"a": {"b": d["a"]["b"] + 1}}),
        (lambda: np.zeros(2), lambda a: a + 1),
        (lambda: None, lambda _: 1),
        (torch.Generator, lambda g: (torch.rand(1, generator=g), g)[1]),
        (lambda: np.random.default_rng(0), lambda g: (g.random(), g)[1]),
        (lambda: random.Random(0), lambda g: (g.random(), g)[1]),
        (lambda: [nn.Linear(1, 1)], lambda m: (m[0].weight.data.add_(1), m)[1]),
        (lambda: np.int64(0), lambda n: n + 1),
        (itertools.count, lambda i: (next(i), i)[1]),
        (lambda: iter(range(10**6)), lambda i: (next(i), i)[1]),
        (lambda: array.array("i", [0]), lambda a: (a.append(0), a)[1]),
        (lambda: bytearray(1), lambda a: a + a[:1]),
        (lambda: Fraction(0), lambda f: f + 1),
        (lambda: Slots(0), lambda s: Slots(s.n + 1)),
        (lambda: [[[[[[0]]]]]], lambda _: [[[[[[1]]]]]]),
        (counter, lambda f: (f(), f)[1]),
        (lambda: partial(Slots(0).add, 1), lambda f: (f(), f)[1]),
    ],
)
def test_what_lies_outside_of_the_state_is_refused_by_its_name(
    begin: Callable[[Make, Optimizer], Run], kept: Callable[[], Any], count: Callable[[Any], Any], tmp_path: Path
) -> None:
    run = begin(lambda: Counting(kept(), count), OPTIMIZERS["the trainer's"])
    run.epoch()
    run.evaluate()
    with pytest.raises(UserError, match=r"^The student Mine changes kept while it is trained.*cannot be kept\.$"):
        checkpoint.save(run, tmp_path / "state", "key")
    assert not (tmp_path / "state").exists()
    history(run)
    checkpoint.save(run, tmp_path / "state", "key")  # its history needs no state


@pytest.mark.parametrize("where", ["hook", "attribute of a parameter"])
def test_what_is_attached_to_a_part_is_refused_too(
    begin: Callable[[Make, Optimizer], Run], where: str, tmp_path: Path
) -> None:
    def make() -> nn.Module:
        module, count = Function(lambda parts, x: parts["head"](x), head=nn.Linear(D, K)), counter()
        weight: Any = module.parts["head"].weight
        hook = (
            (lambda *_: weight.__setattr__("steps", count()))
            if "attribute" in where
            else (lambda *_: (count(), None)[1])
        )
        module.parts["head"].register_forward_hook(hook)
        return module

    run = begin(make, OPTIMIZERS["the trainer's"])
    run.epoch()
    run.evaluate()
    with pytest.raises(UserError, match=r"head\.(_forward_hooks|weight\.steps) while it is trained"):
        checkpoint.save(run, tmp_path / "state", "key")


def test_what_does_not_change_is_no_reason_to_refuse(begin: Callable[[Make, Optimizer], Run], tmp_path: Path) -> None:
    def make() -> nn.Module:
        module: Any = Function(lambda parts, x: parts["head"](x), head=nn.Linear(D, K))
        module.other = [module, module.parts["head"], np.float32(1), F.gelu, partial(F.softmax, dim=1), Slots(0)]
        module.lock, module.itself, module.kind = threading.Lock(), lambda: module, torch.float32
        module.register_forward_hook(lambda owner, *_: module.itself() and None)
        return module  # type: ignore[no-any-return]

    run = begin(make, OPTIMIZERS["the trainer's"])
    run.epoch()
    run.evaluate()
    checkpoint.save(run, tmp_path / "state", "key")


class Unusual(Warming):
    def get_extra_state(self) -> Any:
        return {"what": object()}


class Closed(Warming):
    def set_extra_state(self, state: Any) -> None:
        raise RuntimeError("not now")


class Sparse(Warming):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sparse", torch.eye(3).to_sparse())


def test_what_cannot_be_kept_is_refused(begin: Callable[[Make, Optimizer], Run], tmp_path: Path) -> None:
    for make, words in ((Unusual, "state of Mine has object"), (Sparse, "state of Mine has Tensor")):
        run = begin(make, OPTIMIZERS["the trainer's"])
        run.epoch()
        run.evaluate()
        with pytest.raises(UserError, match=words):
            checkpoint.save(run, tmp_path / "state", "key")
    assert not (tmp_path / "state").exists()


def test_a_state_that_the_student_does_not_take_leaves_a_run_that_begins(
    begin: Callable[[Make, Optimizer], Run], tmp_path: Path
) -> None:
    run = begin(Closed, OPTIMIZERS["the trainer's"])
    rows = history(begin(Closed, OPTIMIZERS["the trainer's"]))
    run.epoch()
    run.evaluate()
    checkpoint.save(run, tmp_path / "state", "key")
    later = begin(Closed, OPTIMIZERS["the trainer's"])
    with pytest.raises(UserError, match=r"cannot be used: the student's set_extra_state raises RuntimeError: not now"):
        checkpoint.restore(later, tmp_path / "state", "key")
    assert history(later) == rows


def test_a_run_that_begins_anew_reads_the_taps_that_it_read(
    begin: Callable[[Make, Optimizer], Run], tmp_path: Path
) -> None:
    one = begin(Closed, OPTIMIZERS["the trainer's"])
    train, val = (replace(bank, taps=(bank.taps[0][:, :1], *bank.taps)) for bank in one.banks)
    row = replace(one.configuration, student=replace(one.configuration.student, taps=(1,)))
    run, later = (Run(row, train, val, 3) for _ in range(2))
    run.epoch()
    run.evaluate()
    checkpoint.save(run, tmp_path / "state", "key")
    with pytest.raises(UserError, match="set_extra_state raises RuntimeError"):
        checkpoint.restore(later, tmp_path / "state", "key")
    assert later.train.taps[0] is train.taps[1]
    assert history(later) == history(Run(row, train, val, 3))


def test_a_layout_that_differs_is_refused(begin: Callable[[Make, Optimizer], Run], tmp_path: Path) -> None:
    run = begin(MODULES["transposed"], OPTIMIZERS["the trainer's"])
    run.epoch()
    run.evaluate()
    checkpoint.save(run, tmp_path / "state", "key")
    other = begin(MODULES["contiguous"], OPTIMIZERS["the trainer's"])
    with pytest.raises(UserError, match=r"weight is laid out as .*\[1, 16\].*valid is .*\[5, 1\]"):
        checkpoint.restore(other, tmp_path / "state", "key")
    assert other.epochs_done == 0


def test_seeds_that_draw_random_numbers_go_on_together(begin: Callable[[Make, Optimizer], Run], tmp_path: Path) -> None:
    once = begin(Noisy, OPTIMIZERS["the trainer's"])

    def training() -> Training:
        return Training(once.configuration, once.train, once.val, [0, 1])

    whole = history(training())
    stopped, later = training(), training()
    stopped.epoch()
    stopped.evaluate()
    for run, again in zip(stopped.runs, later.runs, strict=True):
        checkpoint.save(run, tmp_path / "state", "key")
        checkpoint.restore(again, tmp_path / "state", "key")
    assert history(later) == whole
