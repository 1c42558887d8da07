"""Modules that students are made of: from tap features, shallow to deep, to logits.

Letters in shapes: B batch, D tap width, H hidden width, M memory width, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEMORY_WIDTH = 512  # M
Activation = Callable[[Tensor], Tensor]


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a Linear whose weight is drawn by ``kaiming_uniform_`` with torch's defaults; its bias is Linear's own.

    Example:
        >>> linear(512, 10)(torch.rand(4, 512)).shape
        torch.Size([4, 10])
    """
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight)
    return layer


class KeyValueMemory(nn.Module):
    """A two-layer memory: ``key`` scores H slots, ``memory`` holds their values, ``projection`` reads them out.

    Args:
        in_features: D.
        hidden: H, the number of slots.
        out_features: width of the output.
        act: applied to the scores and to the value read: a function, or the name of one in ``torch.nn.functional``.
        trainable: whether ``memory`` is trained or stays as drawn.

    Example:
        >>> KeyValueMemory(512, 256, 10, torch.nn.functional.gelu)(torch.rand(4, 512)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, in_features: int, hidden: int, out_features: int, act: Activation | str, *, trainable: bool = True
    ):
        super().__init__()
        self.act: Activation = getattr(F, act) if isinstance(act, str) else act
        self.key = linear(in_features, hidden)
        self.memory = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(hidden, MEMORY_WIDTH)), trainable)
        self.projection = linear(MEMORY_WIDTH, out_features)

    def forward(self, x: Tensor) -> Tensor:  # (B, D)
        score = self.act(self.key(x))  # (B, H)
        value = self.act(score @ self.memory)  # (B, M)
        out: Tensor = self.projection(value)  # (B, out_features)
        return out


class SumOfHeads(nn.Module):
    """One head on each tap, their logits (B, K) added up.

    Example:
        >>> student = SumOfHeads([torch.nn.Linear(256, 10), torch.nn.Linear(512, 10)])
        >>> student([torch.rand(4, 256), torch.rand(4, 512)]).shape
        torch.Size([4, 10])
    """

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        logits = [head(x) for head, x in zip(self.heads, xs, strict=True)]
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
        first, *rest = zip(self.memories, xs, strict=True)
        out: Tensor = first[0](first[1])
        for memory, x in rest:
            out = memory(x + out)
        return out
