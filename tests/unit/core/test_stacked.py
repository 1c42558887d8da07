"""Stacked seeds: what lone runs give but for rounding, one another's company, and what cannot be stacked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.stacked import Stack, graphed, stacks
from kvbench.core.student import Student
from kvbench.core.trainer import Training
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from tests.support.trainer import METRICS, ROW, SCHEDULED, config, history, mine, random_bank

BANKS = random_bank(100), random_bank(40, seed=1)
STUDENTS = [row.name for row in STUDY.students]


def stacked(
    row: Configuration, seeds: Sequence[int] = (0, 1), banks: tuple[FeatureBank, FeatureBank] = BANKS
) -> Training:
    training = Training(row, *banks, seeds, stacked=True)
    assert all(isinstance(unit, Stack) for unit in training.units), "it is stacked"
    return training


def agree(mine: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], rel: float = 1e-4) -> None:
    assert len(mine) == len(alone) > 0
    for row, expected in zip(mine, alone, strict=True):
        assert [row[name] for name in ROW[:3]] == [expected[name] for name in ROW[:3]]
        assert [row[name] for name in METRICS] == pytest.approx([expected[name] for name in METRICS], rel, rel)


def parameters(run: Run) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.module.parameters()])


@functools.cache
def lone(name: str, seed: int) -> list[dict[str, Any]]:
    return history(Run(config(name, epochs=2, **SCHEDULED), *BANKS, seed))


# Agreement


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_stacked_seeds_have_the_histories_of_lone_runs(name: str, count: int) -> None:
    training = stacked(config(name, epochs=2, **SCHEDULED), range(count))
    assert [len(unit.runs) for unit in training.units] == [count]
    agree(history(training), [row for seed in range(count) for row in lone(name, seed)])


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", ["Model2", "Model3", "Model7"])
def test_a_stack_differs_by_less_than_replicates_do(name: str, count: int) -> None:
    row, moved = config(name, epochs=2, **SCHEDULED), (BANKS[0].perturbed(1), BANKS[1].perturbed(2))
    together = history(stacked(row, range(count)))[1::2]  # last epochs
    replicates = [history(Run(row, *moved, seed))[-1] for seed in range(count)]
    alone = [lone(name, seed)[-1] for seed in range(count)]
    for loss in ("train_loss", "val_loss"):
        most = max(abs(one[loss] - own[loss]) for one, own in zip(replicates, alone, strict=True))
        assert all(abs(one[loss] - own[loss]) <= most for one, own in zip(together, alone, strict=True))


class Double(nn.Module):
    """A student that computes in float64, where rounding leaves twice as many digits."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.double()

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.inner([x.double() for x in xs])
        return out.float()


@pytest.mark.parametrize("name", STUDENTS)
def test_in_float64_parameters_agree_to_ten_digits(name: str) -> None:
    student = STUDY.student(name)
    row = config(Student(name, lambda d, k: Double(student.build(d, k)), student.taps), epochs=2)
    training = stacked(row, [3, 1])
    training.finish()
    for run in training.runs:
        alone = Run(row, *BANKS, run.seed)
        agree(run.history, history(alone), 1e-6)
        assert torch.allclose(parameters(run), parameters(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "recipe",
    [
        {"weight_decay": 0.5},
        {"optimizer": "AdamW", "weight_decay": 0.5},
        {"optimizer": "SGD", "lr": 0.5},
        {"schedule": "cosine"},
        {"loss": "mse"},
        {"loss": "kl", "temperature": 3.0},
        {"loss": "cross_entropy", "temperature": 2.0},
        {"loss": "cross_entropy", "target": "labels"},
        {"batch_size": 200},
        {"lr": 0.0},
    ],
    ids=str,
)
def test_every_recipe_that_can_be_stacked(recipe: dict[str, Any]) -> None:
    training = stacked(config("Model2", **recipe), [5, 0])
    agree(history(training), [row for seed in (5, 0) for row in history(Run(config("Model2", **recipe), *BANKS, seed))])


def test_a_bank_in_bfloat16_and_validation_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = BANKS
    half = FeatureBank(tuple(tap.bfloat16() for tap in train.taps), train.logits.bfloat16(), train.labels)
    alone = history(Run(config("Model2"), half, val, 1))
    monkeypatch.setattr("kvbench.core.stacked.EVALUATION_BATCH", 7)
    agree(history(stacked(config("Model2"), [1], (half, val))), alone)


def test_a_student_that_evaluates_in_another_way() -> None:
    class Halved(nn.Linear):
        def forward(self, xs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(xs[-1]) * (1 if self.training else 0.5)

    row = config(mine(lambda d, k: Halved(d[-1], k)))
    agree(history(stacked(row, [2])), history(Run(row, *BANKS, 2)))


def test_replicates_have_a_stack_of_their_own_banks() -> None:
    moved = BANKS[0].perturbed(1), BANKS[1].perturbed(2)
    training = Training(config("Model2"), *BANKS, [0, 1], [Run(config("Model2"), *moved, 1)], stacked=True)
    assert [[run.seed for run in unit.runs] for unit in training.units] == [[0, 1], [1]]
    training.finish()
    agree(training.replicate_history, history(Run(config("Model2"), *moved, 1)))
    agree(training.history, history(Training(config("Model2"), *BANKS, [0, 1])))


# What a stack leaves alone


def test_runs_are_as_they_were_when_they_are_stacked() -> None:
    training, plain = stacked(config("Model4")), Training(config("Model4"), *BANKS, [0, 1])
    for run, other in zip(training.runs, plain.runs, strict=True):
        assert torch.equal(parameters(run), parameters(other))
        assert torch.equal(run.order.get_state(), other.order.get_state())
        assert all(parameter.grad is None for parameter in run.module.parameters())
        assert not run.optimizer.state


def test_frozen_memories_stay_as_drawn_and_all_else_is_trained() -> None:
    training = stacked(config("Model4", weight_decay=1.0))
    before = [{key: value.clone() for key, value in run.module.state_dict().items()} for run in training.runs]
    training.finish()
    for run, drawn in zip(training.runs, before, strict=True):
        for key, value in run.module.state_dict().items():
            assert torch.equal(value, drawn[key]) == key.endswith("memory"), key


def test_a_student_of_which_nothing_is_trained() -> None:
    row = config(mine(lambda d, k: Frozen(d[-1], k)))
    agree(history(stacked(row)), history(Training(row, *BANKS, [0, 1])))


class Frozen(nn.Linear):
    def __init__(self, width: int, classes: int):
        super().__init__(width, classes)
        self.requires_grad_(False)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(xs[-1])


def test_a_seed_that_diverges_changes_nothing_for_the_others() -> None:
    whole = stacked(config("Model3"))
    training = stacked(config("Model3"))
    with torch.no_grad():
        training.runs[0].module.get_parameter("heads.0.key.weight").fill_(math.nan)
    with pytest.raises(UserError, match=r"Model3 \(seed 0\) is nan in epoch 1, step 1"):
        training.epoch()
    whole.epoch()
    training.evaluate()
    whole.evaluate()
    assert [run.diverged for run in training.runs] == [True, False]
    assert torch.equal(parameters(training.runs[1]), parameters(whole.runs[1]))
    assert training.history[-1] | {"seconds": 0} == whole.history[-1] | {"seconds": 0}


def test_seeds_that_are_behind_catch_up_bit_by_bit() -> None:
    rows = history(stacked(config("Model3"), [0, 1, 2]))
    training, ahead = stacked(config("Model3"), [0, 1, 2]), stacked(config("Model3"), [0, 1, 2])
    for _ in range(2):
        ahead.epoch()
        ahead.evaluate()
    # As after a kill between two states: seeds 0 and 2 have two epochs, seed 1 none.
    training.runs = [ahead.runs[0], training.runs[1], ahead.runs[2]]
    training.units = stacks(training.runs)
    for left, done in ((2, [2, 1, 2]), (1, [2, 2, 2]), (0, [3, 3, 3]), (0, [3, 3, 3])):
        training.epoch()
        training.evaluate()
        assert (training.epochs_left, [run.epochs_done for run in training.runs]) == (left, done)
    assert history(training) == rows


def test_fewer_seeds_are_stacked_where_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kvbench")
    alone = history(Training(config("Model2"), *BANKS, range(5)))
    compare = Stack._compare

    def small(self: Stack, rows: Tensor) -> None:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        compare(self, rows)

    monkeypatch.setattr(Stack, "_compare", small)
    training = stacked(config("Model2"), range(5))
    assert [len(unit.runs) for unit in training.units] == [2, 1, 2]
    assert caplog.messages == ["Model2 is stacked by at most 2 seeds, as memory allows."]
    agree(history(training), alone)
    monkeypatch.setattr(Stack, "_compare", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        Training(config("Model2"), *BANKS, [0, 1], stacked=True)


# What is not stacked


class Mean(nn.Linear):
    """A linear layer on the mean of the deepest tap and what ``more`` makes of it."""

    def __init__(self, width: int, classes: int, more: Callable[[nn.Linear, Tensor], Tensor] | None = None):
        super().__init__(width, classes)
        self.more = more

    def forward(self, xs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(self.more(self, xs[-1]) if self.more else xs[-1])


def branching(_: nn.Linear, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else 2 * x


def counting(module: nn.Linear, x: Tensor) -> Tensor:
    vars(module)["calls"] = vars(module).get("calls", 0) + 1
    return x


def renormed(module: nn.Linear, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.weight.mul_(0.5)
    return x


def of_two(width: int, classes: int) -> nn.Module:
    made = Mean(width, classes)
    made.bias = nn.Parameter(made.weight.detach()[:, 0])
    return made


def with_own_tensor(width: int, classes: int) -> nn.Module:
    scale = torch.rand(width)
    return Mean(width, classes, lambda _, x: x * scale)


def with_hook(width: int, classes: int) -> nn.Module:
    made = Mean(width, classes)
    made.weight.register_hook(lambda gradient: gradient * 0.5)  # type: ignore[no-untyped-call]
    return made


class Norm(nn.Module):
    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, classes)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.head(self.norm(xs[-1]))
        return out


class Squared(torch.autograd.Function):
    """Has no rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = 2 * x * gradient
        return out


def contrast(logits: Tensor, target: Tensor) -> Tensor:
    return ((logits - logits.flip(0)) - (target - target.flip(0))).square().mean()


MAKERS: dict[str, tuple[Callable[[int, int], nn.Module], str]] = {
    "buffers": (Norm, "it has buffers"),
    "random numbers": (lambda d, k: Mean(d, k, lambda m, x: F.dropout(x, 0.5, m.training)), "it draws random numbers"),
    "branches": (lambda d, k: Mean(d, k, branching), "a step of a stack fails: RuntimeError: "),
    "no rule": (lambda d, k: Mean(d, k, lambda m, x: Squared.apply(x * m.weight.mean())), "a step of a stack fails: "),
    "counts": (lambda d, k: Mean(d, k, counting), "it changes what it holds while it is trained"),
    "parameters": (lambda d, k: Mean(d, k, renormed), "it changes its parameters in its forward pass"),
    "own tensor": (with_own_tensor, "its seeds differ in more than their parameters' values"),
    "shared memory": (of_two, "its parameters share memory"),
    "hook": (with_hook, "it has hooks on its gradients"),
}
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": contrast}, "its loss is a function that may not be the mean of the rows' own"),
    "optimizer": ({"optimizer": "Adamax"}, "its optimizer is Adamax; those that treat each number alone are Adam, "),
}


@pytest.mark.parametrize("name", [*MAKERS, *RECIPES])
def test_what_cannot_be_stacked_is_trained_as_before_and_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kvbench")
    make, reason = MAKERS.get(name) or (Mean, RECIPES[name][1])
    recipe = RECIPES[name][0] if name in RECIPES else {}
    row = config(mine(lambda d, k: make(d[-1], k)), epochs=1, **recipe)
    training = Training(row, *BANKS, [0, 1], stacked=True)
    assert training.units == training.runs
    (told,) = [message for message in caplog.messages if "stack" in message]
    assert told.startswith(f"Mine is not stacked, its seeds are interleaved: {reason}")
    assert history(training) == history(Training(row, *BANKS, [0, 1]))


def test_seeds_are_interleaved_unless_that_is_asked_for() -> None:
    assert all(isinstance(unit, Run) for unit in Training(config(), *BANKS, [0, 1]).units)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_gives_what_its_function_gives() -> None:
    device = torch.device("cuda")
    banks = BANKS[0].to(device), BANKS[1].to(device)
    made = [stacked(config("Model3"), banks=banks) for _ in range(2)]
    for unit in made[1].units:
        assert isinstance(unit, Stack)
        unit.step, unit.score = unit._step, unit._score  # without graphs
    assert history(made[0]) == history(made[1])
    added = torch.zeros((), device=device)
    act = graphed(lambda rows: added.add_(rows.sum()).clone(), torch.ones(2, 2, device=device))
    added.zero_()
    assert [float(act(torch.ones(*shape, device=device))) for shape in ((2, 2), (2, 2), (3, 1))] == [4, 8, 11]
