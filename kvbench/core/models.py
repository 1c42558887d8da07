"""Students: from tap features, shallow to deep, to logits.

Letters in shapes: B batch, D tap width, H hidden width, M memory width, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kvbench.utils.errors import UserError, unknown

MEMORY_WIDTH = 512  # M
Activation = Callable[[Tensor], Tensor]


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a Linear whose weight is drawn by ``kaiming_uniform_`` with torch's defaults; its bias is Linear's own."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight)
    return layer


class KeyValueMemory(nn.Module):
    """A two-layer memory: ``key`` scores H slots, ``memory`` holds their values, ``projection`` reads them out.

    Args:
        in_features: D.
        hidden: H, the number of slots.
        out_features: width of the output.
        act: applied to the scores and to the value read.
        trainable: whether ``memory`` is trained or stays as drawn.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, act: Activation, *, trainable: bool = True):
        super().__init__()
        self.act = act
        self.key = linear(in_features, hidden)
        self.memory = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(hidden, MEMORY_WIDTH)), trainable)
        self.projection = linear(MEMORY_WIDTH, out_features)

    def forward(self, x: Tensor) -> Tensor:  # (B, D)
        score = self.act(self.key(x))  # (B, H)
        value = self.act(score @ self.memory)  # (B, M)
        out: Tensor = self.projection(value)  # (B, out_features)
        return out


class SumOfHeads(nn.Module):
    """One head on each of the last taps, their logits added up."""

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        logits = [head(x) for head, x in zip(self.heads, xs[-len(self.heads) :], strict=True)]
        total: Tensor = functools.reduce(torch.add, logits)
        return total


class ResidualChain(nn.Module):
    """Memories in a row, from shallow to deep, each adding the one before to its tap."""

    def __init__(self, memories: Sequence[nn.Module]):
        super().__init__()
        self.memories = nn.ModuleList(memories)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        first, *rest = zip(self.memories, xs[-len(self.memories) :], strict=True)
        out: Tensor = first[0](first[1])
        for memory, x in rest:
            out = memory(x + out)
        return out


def memories(widths: Sequence[int], classes: int, act: Activation, *, trainable: bool) -> nn.Module:
    """Three memories of 256 slots, one a tap, their logits added up."""
    return SumOfHeads([KeyValueMemory(d, 256, classes, act, trainable=trainable) for d in widths[-3:]])


def chain(widths: Sequence[int], classes: int) -> nn.Module:
    """Three memories of 512 slots in a residual chain; each is as wide as the tap it is added to."""
    first, second, third = widths[-3:]
    return ResidualChain(
        [
            KeyValueMemory(first, 512, second, F.gelu),
            KeyValueMemory(second, 512, third, F.gelu),
            KeyValueMemory(third, 512, classes, F.gelu),
        ]
    )


@dataclass(frozen=True)
class Student:
    """A row of the table of students; ``make`` takes the taps' widths, shallow to deep, and K."""

    name: str
    reads: int  # how many taps, counted from the deepest
    summary: str
    make: Callable[[Sequence[int], int], nn.Module]

    def build(self, widths: Sequence[int], classes: int) -> nn.Module:
        """Make the module; raises `UserError` where there are fewer taps than it reads."""
        if len(widths) < self.reads:
            raise UserError(
                f"{self.name} reads {self.reads} taps, there are {len(widths)}: name more with --kvbench-taps."
            )
        return self.make(widths, classes)


STUDENTS = {
    row.name: row
    for row in [
        Student("Model1", 1, "Linear", lambda d, k: SumOfHeads([linear(d[-1], k)])),
        Student("Model2", 2, "sum of two Linears", lambda d, k: SumOfHeads([linear(w, k) for w in d[-2:]])),
        Student("Model3", 3, "sum of three memories, GELU", lambda d, k: memories(d, k, F.gelu, trainable=True)),
        Student("Model4", 3, "Model3, frozen memory", lambda d, k: memories(d, k, F.gelu, trainable=False)),
        Student("Model5", 3, "Model3, ReLU", lambda d, k: memories(d, k, F.relu, trainable=True)),
        Student("Model6", 3, "Model5, frozen memory", lambda d, k: memories(d, k, F.relu, trainable=False)),
        Student("Model7", 3, "residual chain of memories, GELU", chain),
    ]
}


def student(name: str) -> Student:
    """Look a student up; raises `UserError` naming the valid ones."""
    if name not in STUDENTS:
        raise unknown("student", name, STUDENTS)
    return STUDENTS[name]


@dataclass(frozen=True)
class Cost:
    """Parameters, those of them that are trained, and FLOPs of one sample's forward pass (2 a multiply-add)."""

    parameters: int
    trainable: int
    flops_per_sample: int


def cost(row: Student, widths: Sequence[int], classes: int) -> Cost:
    """Count the cost of a student on the meta device: nothing is allocated or computed."""
    with torch.device("meta"):
        module = row.build(widths, classes)
        with FlopCounterMode(display=False) as counter:
            module([torch.empty(1, d) for d in widths])
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return Cost(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), counter.get_total_flops())
