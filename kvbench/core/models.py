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

from kvbench.core.numerics import default_numerics, random_state_kept
from kvbench.utils.errors import UserError, describe, unknown
from kvbench.utils.oom import out_of_memory

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

    Example:
        >>> KeyValueMemory(512, 256, 10, torch.nn.functional.gelu)(torch.rand(4, 512)).shape
        torch.Size([4, 10])
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
    """One head on each of the last taps, their logits (B, K) added up.

    Example:
        >>> student = SumOfHeads([torch.nn.Linear(256, 10), torch.nn.Linear(512, 10)])
        >>> student([torch.rand(4, 64), torch.rand(4, 256), torch.rand(4, 512)]).shape
        torch.Size([4, 10])
    """

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        logits = [head(x) for head, x in zip(self.heads, xs[-len(self.heads) :], strict=True)]
        total: Tensor = functools.reduce(torch.add, logits)
        return total


class ResidualChain(nn.Module):
    """Memories in a row, from shallow to deep, each adding the output of the one before to its tap (B, D).

    Example:
        >>> gelu = torch.nn.functional.gelu
        >>> student = ResidualChain([KeyValueMemory(256, 64, 512, gelu), KeyValueMemory(512, 64, 10, gelu)])
        >>> student([torch.rand(4, 256), torch.rand(4, 512)]).shape
        torch.Size([4, 10])
    """

    def __init__(self, memories: Sequence[nn.Module]):
        super().__init__()
        self.memories = nn.ModuleList(memories)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        first, *rest = zip(self.memories, xs[-len(self.memories) :], strict=True)
        out: Tensor = first[0](first[1])
        for memory, x in rest:
            out = memory(x + out)
        return out


def memories(widths: Sequence[int], classes: int, act: Activation, *, trainable: bool = True) -> nn.Module:
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
    """A row of the table of students.

    Args:
        name: what its configurations are called: ``Model1``, ``lr_Model1``.
        reads: how many taps it reads, counted from the deepest.
        summary: a few words for tables.
        make: makes the module from the taps' widths, shallow to deep, and K. The module takes a list of tap features
            (B, D) each, shallow to deep, in float32, and returns logits (B, K) in float32.
        group: what it is compared as: ``simple``, ``memory``, or a group of yours.

    Example:
        >>> def one_layer(widths, classes):
        ...     return SumOfHeads([torch.nn.Linear(widths[-1], classes)])
        >>> STUDENTS["Plain"] = Student("Plain", reads=1, summary="Linear", make=one_layer)
        >>> STUDENTS["Plain"].build([256, 512, 512], 10)([torch.rand(4, d) for d in (256, 512, 512)]).shape
        torch.Size([4, 10])
    """

    name: str
    reads: int
    summary: str
    make: Callable[[Sequence[int], int], nn.Module]
    group: str = ""

    def need_taps(self, widths: Sequence[int]) -> None:
        """Raise `UserError` where there are fewer taps than it reads."""
        if len(widths) < self.reads:
            raise UserError(
                f"{self.name} reads {self.reads} taps, there are {len(widths)}: name more with --kvbench-taps."
            )

    def build(self, widths: Sequence[int], classes: int) -> nn.Module:
        """Make the module.

        Raises:
            UserError: there are fewer taps than it reads, or ``make`` fails or returns something else.
        """
        self.need_taps(widths)
        try:
            module = self.make(widths, classes)
        except Exception as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise UserError(
                f"The student {self.name} cannot be made: its make({list(widths)}, {classes}) raises"
                f" {describe(error)}. Valid is a function of the taps' widths and the number of classes."
            ) from error
        if not isinstance(module, nn.Module):
            raise UserError(
                f"The student {self.name} cannot be made: its make({list(widths)}, {classes}) returns"
                f" {type(module).__name__}; valid is a torch.nn.Module."
            )
        return module


SIMPLE, MEMORY = "simple", "memory"  # groups of students
STUDENTS = {
    row.name: row
    for row in [
        Student("Model1", 1, "Linear", lambda d, k: SumOfHeads([linear(d[-1], k)]), SIMPLE),
        Student("Model2", 2, "sum of two Linears", lambda d, k: SumOfHeads([linear(w, k) for w in d[-2:]]), SIMPLE),
        Student("Model3", 3, "sum of three memories, GELU", lambda d, k: memories(d, k, F.gelu), MEMORY),
        Student("Model4", 3, "Model3, frozen memory", lambda d, k: memories(d, k, F.gelu, trainable=False), MEMORY),
        Student("Model5", 3, "Model3, ReLU", lambda d, k: memories(d, k, F.relu), MEMORY),
        Student("Model6", 3, "Model5, frozen memory", lambda d, k: memories(d, k, F.relu, trainable=False), MEMORY),
        Student("Model7", 3, "residual chain of memories, GELU", chain, MEMORY),
    ]
}


def student(name: str) -> Student:
    """Look a student up; raises `UserError` naming the valid ones."""
    if name not in STUDENTS:
        raise unknown("student", name, STUDENTS)
    return STUDENTS[name]


@dataclass(frozen=True)
class Cost:
    """Parameters, those of them that are trained, and FLOPs of one sample's forward pass (2 a multiply-add).

    None is what cannot be counted.
    """

    parameters: int | None
    trainable: int | None
    flops_per_sample: int | None


def cost(row: Student, widths: Sequence[int], classes: int) -> Cost:
    """Count the cost of a student, in evaluation mode.

    On the meta device, where nothing is allocated or computed; on the CPU where a student needs numbers to be made or
    called. Never raises: what only describes a training must not end it.
    """
    with random_state_kept(torch.device("cpu")), default_numerics():
        counted = _cost(row, widths, classes, "meta")
        if counted.flops_per_sample is None:
            real = _cost(row, widths, classes, "cpu")
            counted = real if real.parameters is not None else counted
        return counted


def _cost(row: Student, widths: Sequence[int], classes: int, device: str) -> Cost:
    sizes: list[tuple[int, bool]] = []
    try:
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            module = row.build(widths, classes).eval()
            before = counter.get_total_flops()  # of what making it computes
            try:
                module([torch.zeros(1, d) for d in widths])
            finally:
                sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
            flops = counter.get_total_flops() - before
    except Exception:
        if not sizes:
            return Cost(None, None, None)
        flops = None
    return Cost(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), flops)
