"""Faults of the students: their layers, activations, memories and initialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core import models
from kvbench.core.models import KeyValueMemory, ResidualChain, SumOfHeads
from kvbench.core.run import Run
from kvbench.mutation.faults.fault import MEMORY, Fault, after_init, patched

FROZEN, GELU, RELU, RESIDUAL = ("frozen memories",), ("GELU",), ("ReLU",), ("residual chain",)
SIMPLE, SUM = ("simple",), ("what reads more than the last tap",)


def memory_forward(forward: Callable[[KeyValueMemory, Tensor], Tensor]) -> Callable[[], AbstractContextManager[object]]:
    """Read memories in another way."""
    return patched(KeyValueMemory, "forward", forward)


def transposed(self: KeyValueMemory, x: Tensor) -> Tensor:
    """The memory's transpose, where it is square."""
    memory = self.memory.T if self.memory.shape[0] == self.memory.shape[1] else self.memory
    return _read(self, self.act(self.key(x)) @ memory)


def one_activation(self: KeyValueMemory, x: Tensor) -> Tensor:
    """No activation of the value that is read."""
    out: Tensor = self.projection(self.act(self.key(x)) @ self.memory)
    return out


def no_score_activation(self: KeyValueMemory, x: Tensor) -> Tensor:
    """No activation of the scores."""
    return _read(self, self.key(x) @ self.memory)


def softmax_scores(self: KeyValueMemory, x: Tensor) -> Tensor:
    """Attention instead of an activation: the scores' softmax."""
    return _read(self, F.softmax(self.key(x), 1) @ self.memory)


def dropped_out(self: KeyValueMemory, x: Tensor) -> Tensor:
    """Dropout of 10% of the scores, in validation as well."""
    return _read(self, F.dropout(self.act(self.key(x)), 0.1) @ self.memory)


def in_bf16(self: KeyValueMemory, x: Tensor) -> Tensor:
    """The scores in bfloat16."""
    return _read(self, (self.act(self.key(x)).bfloat16().float()) @ self.memory)


def _read(self: KeyValueMemory, value: Tensor) -> Tensor:
    out: Tensor = self.projection(self.act(value))
    return out


def no_residual(self: ResidualChain, xs: Sequence[Tensor]) -> Tensor:
    """Only the last memory's reading counts."""
    out: Tensor = list(self.memories)[-1](xs[-1])
    return out


def averaged(self: SumOfHeads, xs: Sequence[Tensor]) -> Tensor:
    """The heads' mean instead of their sum."""
    logits = [head(x) for head, x in zip(self.heads, xs, strict=True)]
    return torch.stack(logits).mean(0)


def same_tap(self: SumOfHeads, xs: Sequence[Tensor]) -> Tensor:
    """Every head that fits reads the last tap."""
    logits = [head(xs[-1] if x.shape == xs[-1].shape else x) for head, x in zip(self.heads, xs, strict=True)]
    return torch.stack(logits).sum(0)


def with_activation(old: str, new: models.Activation) -> Callable[[], AbstractContextManager[object]]:
    """Another activation in the memories that have ``old``."""
    original = KeyValueMemory.__init__

    def init(self: KeyValueMemory, d: int, h: int, k: int, act: models.Activation | str, **options: Any) -> None:
        original(self, d, h, k, new if act == old else act, **options)

    return patched(KeyValueMemory, "__init__", init)


def with_memory(trainable: bool) -> Callable[[], AbstractContextManager[object]]:
    """All memories trained, or none."""
    original = KeyValueMemory.__init__

    def init(self: KeyValueMemory, *arguments: Any, **_: Any) -> None:
        original(self, *arguments, trainable=trainable)

    return patched(KeyValueMemory, "__init__", init)


_memory = KeyValueMemory.__init__


def narrower(self: KeyValueMemory, d: int, h: int, *arguments: Any, **options: Any) -> None:
    """Half the slots."""
    _memory(self, d, h // 2, *arguments, **options)


def small_memory(self: KeyValueMemory, *arguments: Any, **options: Any) -> None:
    """A memory drawn from N(0, 0.02) instead of kaiming's range."""
    _memory(self, *arguments, **options)
    with torch.no_grad():
        self.memory.normal_(0, 0.02)


def drawn_by(draw: Callable[[Tensor], Tensor]) -> Callable[[int, int], nn.Linear]:
    """Linear layers whose weights are drawn in another way."""

    def linear(in_features: int, out_features: int) -> nn.Linear:
        layer = nn.Linear(in_features, out_features)
        draw(layer.weight)
        return layer

    return linear


def no_bias(run: Run) -> None:
    """The last layers' biases are zero and stay so."""
    layers = [m for m in run.module.modules() if isinstance(m, nn.Linear) and m.out_features == run.train.classes]
    for layer in layers:
        with torch.no_grad():
            layer.bias.zero_()
        layer.bias.requires_grad_(False)


STUDENT_FAULTS = [
    Fault("memory-frozen", "the trained memories are frozen", with_memory(trainable=False), MEMORY, FROZEN),
    Fault("memory-unfrozen", "the frozen memories are trained", with_memory(trainable=True), FROZEN, SIMPLE, FROZEN),
    Fault("relu-for-gelu", "ReLU for GELU", with_activation("gelu", F.relu), MEMORY, SIMPLE, GELU),
    Fault("gelu-for-relu", "GELU for ReLU", with_activation("relu", F.gelu), RELU, SIMPLE, RELU),
    Fault("gelu-tanh", "GELU by its tanh approximation",
          with_activation("gelu", partial(F.gelu, approximate="tanh")), MEMORY, SIMPLE, GELU),
    Fault("silu-for-gelu", "SiLU for GELU", with_activation("gelu", F.silu), MEMORY, SIMPLE, GELU),
    Fault("memory-transposed", "the memory is transposed where it is square", memory_forward(transposed), RESIDUAL,
          SIMPLE, RESIDUAL),
    Fault("activation-missing", "the value that is read has no activation", memory_forward(one_activation), MEMORY,
          SIMPLE, MEMORY),
    Fault("score-activation-missing", "the scores have no activation", memory_forward(no_score_activation), MEMORY,
          SIMPLE, MEMORY),
    Fault("softmax-scores", "the scores go through softmax", memory_forward(softmax_scores), MEMORY, SIMPLE, MEMORY),
    Fault("dropout-left-on", "10% dropout of the scores, in validation, too", memory_forward(dropped_out), MEMORY,
          SIMPLE, MEMORY),
    Fault("scores-in-bf16", "the scores in bfloat16", memory_forward(in_bf16), MEMORY, SIMPLE, MEMORY),
    Fault("half-the-slots", "half as many slots", patched(KeyValueMemory, "__init__", narrower), MEMORY, SIMPLE,
          MEMORY),
    Fault("memory-init", "memories are drawn from N(0, 0.02)", patched(KeyValueMemory, "__init__", small_memory),
          FROZEN, SIMPLE, MEMORY),
    Fault("default-init", "Linear's own initialisation instead of kaiming_uniform_", patched(models, "linear", nn.Linear)),  # noqa: E501
    Fault("normal-init", "weights are drawn by kaiming_normal_ instead of kaiming_uniform_",
          patched(models, "linear", drawn_by(nn.init.kaiming_normal_))),
    Fault("xavier-init", "weights are drawn by xavier_uniform_ instead of kaiming_uniform_",
          patched(models, "linear", drawn_by(nn.init.xavier_uniform_))),
    Fault("bias-missing", "the last layers have no bias", after_init(no_bias)),
    Fault("residual-dropped", "the residual chain forgets what came before", patched(ResidualChain, "forward", no_residual),  # noqa: E501
          RESIDUAL, SIMPLE, RESIDUAL),
    Fault("heads-averaged", "the heads' mean instead of their sum", patched(SumOfHeads, "forward", averaged), SUM,
          SIMPLE, SUM),
    Fault("same-tap", "every head that fits reads the last tap", patched(SumOfHeads, "forward", same_tap), SUM,
          SIMPLE, SUM),
]  # fmt: skip
