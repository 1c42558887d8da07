"""The feature bank: what students see of a split, and all that decides it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kvbench.core.numerics import default_numerics

# Relative: more than platforms' passes differ by. In float32 8 units in the last place; in halves 1, which is what a
# pass in bfloat16 was measured to differ by from one in float32 (0.003 to 0.004, RMS).
ROUNDING = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class FeatureBank:
    """What students see of a split: ``taps`` (N, D) each, shallow to deep, ``logits`` (N, K), ``labels`` (N,).

    Taps and logits are float32, or bfloat16 or float16, in which they take half the room.
    ``built_with`` says on what they were computed; see `kvbench.utils.environment.built_with`.

    Example:
        >>> bank = FeatureBank((torch.rand(8, 256), torch.rand(8, 512)), torch.rand(8, 10), torch.arange(8))
        >>> len(bank), bank.widths, bank.classes
        (8, (256, 512), 10)
    """

    taps: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor
    built_with: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each tap, shallow to deep."""
        return tuple(tap.shape[1] for tap in self.taps)

    @property
    def classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    def select(self, taps: Sequence[int]) -> FeatureBank:
        """The bank with some of its taps alone, by their indices; nothing is copied."""
        return replace(self, taps=tuple(self.taps[tap] for tap in taps))

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's own top-1 accuracy, the ceiling of its students'."""
        return float((self.logits.argmax(1) == self.labels).float().mean())

    def to(self, device: torch.device) -> FeatureBank:
        """Move all tensors; those already there stay memory-mapped."""
        taps = tuple(tap.to(device) for tap in self.taps)
        return replace(self, taps=taps, logits=self.logits.to(device), labels=self.labels.to(device))

    @default_numerics()
    def perturbed(self, seed: int = 0) -> FeatureBank:
        """A copy as another platform might have left it: each feature and logit times 1 + `ROUNDING` * N(0, 1)."""
        noise = torch.Generator().manual_seed(seed)

        def rounded(x: Tensor) -> Tensor:
            factor = 1 + ROUNDING[x.dtype] * torch.randn(x.shape, generator=noise)
            return (x * factor.to(x.device)).to(x.dtype)

        return FeatureBank(tuple(rounded(tap) for tap in self.taps), rounded(self.logits), self.labels)

    @property
    def digest(self) -> str:
        """Names the contents, bit by bit."""
        hashed = hashlib.sha256()
        for tensor in (*self.taps, self.logits, self.labels):
            hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            for rows in torch.split(tensor, 65536):  # a copy of all of it may not fit in the CPU's memory
                hashed.update(bytes_of(rows))
        return hashed.hexdigest()[:16]

    def batch(self, rows: Tensor | slice) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gather rows: tap features (B, D) each and teacher logits (B, K), in float32, labels (B,).

        All are copies: a student that writes into its inputs leaves the bank alone.
        """
        view = isinstance(rows, slice)
        taps = [tap[rows].to(torch.float32, copy=view) for tap in self.taps]
        return taps, self.logits[rows].to(torch.float32, copy=view), self.labels[rows]


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor (of any shape, on any device), contiguous; those of one on the CPU are no copy."""
    # Through bytes, since numpy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
