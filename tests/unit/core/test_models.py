"""The students: their wiring against a plain reading of the table, their initialisation, their cost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core.cost import Cost, cost
from kvbench.core.models import KeyValueMemory, SumOfHeads
from kvbench.core.student import Student
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError

State = dict[str, Tensor]
T = TypeVar("T")
WIDTHS = (256, 512, 512)
K = 1000
NAMES = [f"Model{i}" for i in range(1, 8)]


# The design's table of students, written once more without any of the package's code.


def plain_linear(state: State, at: str, x: Tensor) -> Tensor:
    return x @ state[f"{at}.weight"].T + state[f"{at}.bias"]


def plain_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def plain_relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def plain_memory(state: State, at: str, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    score = act(plain_linear(state, f"{at}.key", x))
    value = act(score @ state[f"{at}.memory"])
    return plain_linear(state, f"{at}.projection", value)


def plain_student(name: str, s: State, xs: list[Tensor]) -> Tensor:
    if name == "Model1":
        return plain_linear(s, "heads.0", xs[-1])
    if name == "Model2":
        return plain_linear(s, "heads.0", xs[-2]) + plain_linear(s, "heads.1", xs[-1])
    if name == "Model7":
        x1 = plain_memory(s, "memories.0", xs[-3], plain_gelu)
        x2 = plain_memory(s, "memories.1", xs[-2] + x1, plain_gelu)
        return plain_memory(s, "memories.2", xs[-1] + x2, plain_gelu)
    act = plain_gelu if name in {"Model3", "Model4"} else plain_relu
    return sum((plain_memory(s, f"heads.{i}", xs[i - 3], act) for i in range(3)), start=torch.zeros(1))


def taps(widths: tuple[int, ...], batch: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, d, generator=generator) for d in widths]


def read_by(name: str, of_taps: Sequence[T]) -> list[T]:
    """Of something for each tap, what is there for those that a student reads."""
    return [of_taps[tap] for tap in STUDY.student(name).taps]


def widths_of(name: str) -> list[int]:
    return read_by(name, WIDTHS)


def made(name: str, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return STUDY.student(name).build(read_by(name, widths), classes)


@pytest.mark.parametrize("widths", [WIDTHS, (7, 256, 512, 512), (64, 32, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_every_student_computes_what_the_table_says(name: str, widths: tuple[int, ...]) -> None:
    module, xs = made(name, widths), taps(widths)
    expected = plain_student(name, module.state_dict(), xs)
    assert expected.shape == (5, 10)
    assert torch.allclose(module(read_by(name, xs)), expected, atol=1e-4, rtol=1e-4)


def test_the_students_are_seven_different_functions() -> None:
    xs = taps(WIDTHS)
    memories = {name: made(name) for name in NAMES[2:6]}
    for module in memories.values():
        module.load_state_dict(memories["Model3"].state_dict())
    out = {name: module(xs) for name, module in memories.items()}
    assert torch.equal(out["Model3"], out["Model4"])
    assert torch.equal(out["Model5"], out["Model6"])
    assert not torch.allclose(out["Model3"], out["Model5"], atol=1e-3)


MEMORY = {"key.weight", "key.bias", "memory", "projection.weight", "projection.bias"}
PARTS = {
    "Model1": ("heads", 1, {"weight", "bias"}),
    "Model2": ("heads", 2, {"weight", "bias"}),
    **dict.fromkeys(NAMES[2:6], ("heads", 3, MEMORY)),
    "Model7": ("memories", 3, MEMORY),
}


@pytest.mark.parametrize("name", NAMES)
def test_memories_alone_are_frozen_and_only_in_models_4_and_6(name: str) -> None:
    group, number, parts = PARTS[name]
    expected = {
        f"{group}.{i}.{part}": not (part == "memory" and name in {"Model4", "Model6"})
        for i in range(number)
        for part in parts
    }
    assert {key: p.requires_grad for key, p in made(name).named_parameters()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_trainable_parameter_and_no_frozen_one(name: str) -> None:
    module = made(name)
    module(read_by(name, taps(WIDTHS))).square().sum().backward()
    for p in module.parameters():
        assert (p.grad is not None and bool(p.grad.any())) == p.requires_grad


def fan_in(key: str, value: Tensor) -> int:
    return 512 if key.endswith("memory") else value.shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_kaiming_uniform_and_biases_those_of_linear(name: str) -> None:
    state = made(name, classes=100).state_dict()
    for key, value in state.items():
        weight = state[key.replace("bias", "weight")]
        bound = math.sqrt(1 / fan_in(key, weight)) if key.endswith("bias") else math.sqrt(6 / fan_in(key, weight))
        assert value.abs().max() <= bound
        # Uniform: the largest of n comes near the bound, the deviation is bound / sqrt(3).
        assert value.abs().max() > bound * (0.9 if value.ndim == 1 else 0.99)
        if value.ndim == 2:
            assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert abs(float(value.mean())) < 0.03 * bound


def test_a_memory_of_two_units_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbench.core.models.MEMORY_WIDTH", 2)
    memory = KeyValueMemory(2, 2, 1, F.relu)
    with torch.no_grad():
        memory.key.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        memory.key.bias.copy_(torch.tensor([0.5, -4.0]))
        memory.memory.copy_(torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
        memory.projection.weight.copy_(torch.tensor([[10.0, 100.0]]))
        memory.projection.bias.copy_(torch.tensor([1.0]))
    # x (1, 1): scores (3.5, -2) -> (3.5, 0); value (3.5, -3.5) -> (3.5, 0); 35 + 1.
    # x (2, 0): scores (2.5, 2); value (2.5 + 4, -2.5 + 6) = (6.5, 3.5); 65 + 350 + 1.
    assert memory(torch.tensor([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[36.0], [416.0]]


DESIGN = {
    "Model1": (513_000, 513_000),
    "Model2": (1_026_000, 1_026_000),
    "Model3": (2_260_664, 2_260_664),
    "Model4": (2_260_664, 1_867_448),
    "Model5": (2_260_664, 2_260_664),
    "Model6": (2_260_664, 1_867_448),
    "Model7": (2_481_640, 2_481_640),
}


def memory_flops(width: int, hidden: int, out: int) -> int:
    return 2 * (width * hidden + hidden * 512 + 512 * out)


THREE = memory_flops(256, 256, K) + 2 * memory_flops(512, 256, K)
FLOPS = {
    "Model1": 2 * 512 * K,
    "Model2": 2 * 2 * 512 * K,
    **dict.fromkeys(NAMES[2:6], THREE),
    "Model7": memory_flops(256, 512, 512) + memory_flops(512, 512, 512) + memory_flops(512, 512, K),
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_design_and_flops_those_counted_by_hand(name: str) -> None:
    assert cost(STUDY.student(name), widths_of(name), K) == Cost(*DESIGN[name], FLOPS[name])


def test_flops_counted_by_hand_in_figures() -> None:
    assert FLOPS["Model1"] == 1_024_000
    assert FLOPS["Model3"] == 4_513_792
    assert FLOPS["Model7"] == 4_956_160


def test_counting_allocates_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    counted = cost(STUDY.student("Model1"), [10**6], 10**6)
    assert counted.parameters == 10**12 + 10**6
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_stays_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        module = STUDY.student(name).build(widths_of(name), K)
    out = module([torch.empty(3, d, device="meta") for d in widths_of(name)])
    assert out.is_meta
    assert out.shape == (3, K)
    assert all(t.is_meta for t in module.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
def test_a_student_is_fixed_by_torchs_seed_alone(name: str) -> None:
    first = made(name).state_dict()
    random.seed(5)
    assert all(torch.equal(v, first[k]) for k, v in made(name).state_dict().items())


@pytest.mark.parametrize("name", NAMES[1:])
def test_too_few_taps_are_told(name: str) -> None:
    sentence = rf"{name} reads the taps (-3, )?-2, -1, there are 1: name more with --kvbench-taps"
    with pytest.raises(UserError, match=sentence):
        STUDY.student(name).need_taps(1)


def test_an_unknown_student_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown student 'Model8'\. Did you mean .*Valid: Model1, .*, Model7\."):
        STUDY.student("Model8")
    assert [row.name for row in STUDY.students] == NAMES


class Counted(nn.Module):
    """A student with everything that has stopped counting: it normalises, reads its tensors, and calls ``item``."""

    def __init__(self, width: int, classes: int, *, made: str = "", called: str = ""):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, classes)
        self.head.bias.requires_grad_(False)
        self.called = called
        if made == "reads":
            self.scale = float(self.head.weight.abs().sum().item())
        if made == "draws":
            torch.randn(3), random.random()

    def forward(self, xs: list[Tensor]) -> Tensor:
        assert not self.training
        if self.called == "item":
            assert self.norm.weight[0].item() == 1
        if self.called == "branches" and bool((xs[-1] > 0).all()):
            raise ValueError
        if self.called == "raises":
            raise ValueError("not today")
        out: Tensor = self.head(self.norm(xs[-1]))
        return out


@pytest.mark.parametrize("how", [{}, {"made": "reads"}, {"made": "draws"}, {"called": "item"}, {"called": "branches"}])
def test_whatever_a_student_does_its_cost_is_counted(how: dict[str, str]) -> None:
    state = torch.get_rng_state(), random.getstate()
    row = Student("Mine", lambda widths, k: Counted(widths[-1], k, **how))
    assert cost(row, (4, 8), 5) == Cost(2 * 8 + 8 * 5 + 5, 2 * 8 + 8 * 5, 2 * 8 * 5)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_lazy_parameters_are_counted() -> None:
    row = Student("Mine", lambda widths, k: SumOfHeads([nn.LazyLinear(k)]))
    assert cost(row, (8,), 5) == Cost(45, 45, 80)


def test_what_cannot_be_counted_is_none() -> None:
    row = Student("Mine", lambda widths, k: Counted(widths[-1], k, called="raises"))
    assert cost(row, (4, 8), 5) == Cost(61, 56, None)
    broken = Student("Mine", nn.Linear(1, 1))
    assert cost(broken, (4, 8), 5) == Cost(None, None, None)


def test_students_are_grouped() -> None:
    assert {row.name: row.group for row in STUDY.students} == {
        **dict.fromkeys(NAMES[:2], "simple"),
        **dict.fromkeys(NAMES[2:], "memory"),
    }
