"""The feature bank: what students see of a split, and all that decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvbench.data import Images
from kvbench.errors import unknown
from kvbench.recipe import POOLINGS, PRECISIONS
from kvbench.teacher import Teacher
from kvbench.tensorfile import memory

FORMAT = 3  # raise it when a bank's layout changes
# Relative: more than platforms' passes differ by. In float32 8 units in the last place; in halves 1, which is what a
# pass in bfloat16 was measured to differ by from one in float32 (0.003 to 0.004, RMS).
ROUNDING = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class FeatureBank:
    """What students see of a split: ``taps`` (N, D) each, shallow to deep, ``logits`` (N, K), ``labels`` (N,).

    Taps and logits are float32, or bfloat16 or float16, in which they take half the room. ``maker`` tells on what they
    were made; see `kvbench.provenance.maker`.
    """

    taps: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor
    maker: Mapping[str, Any] = field(default_factory=dict)

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

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's own top-1 accuracy, the ceiling of its students'."""
        return float((self.logits.argmax(1) == self.labels).float().mean())

    def to(self, device: torch.device) -> FeatureBank:
        """Move all tensors; those already there stay memory-mapped."""
        taps = tuple(tap.to(device) for tap in self.taps)
        return replace(self, taps=taps, logits=self.logits.to(device), labels=self.labels.to(device))

    def rounded_otherwise(self, seed: int = 0) -> FeatureBank:
        """A copy as another platform might have left it: each feature and logit times 1 + `ROUNDING` * N(0, 1)."""
        noise = torch.Generator().manual_seed(seed)

        def moved(x: Tensor) -> Tensor:
            factor = 1 + ROUNDING[x.dtype] * torch.randn(x.shape, generator=noise)
            return (x * factor.to(x.device)).to(x.dtype)

        return FeatureBank(tuple(moved(tap) for tap in self.taps), moved(self.logits), self.labels)

    @property
    def digest(self) -> str:
        """Names the contents, bit by bit."""
        made = hashlib.sha256()
        for tensor in (*self.taps, self.logits, self.labels):
            made.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            for rows in torch.split(tensor, 65536):  # whole, a bank on an accelerator may not fit here a second time
                made.update(memory(rows))
        return made.hexdigest()[:16]

    def batch(self, rows: Tensor | slice) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gather rows: tap features (B, D) each and teacher logits (B, K), in float32, labels (B,)."""
        return [tap[rows].float() for tap in self.taps], self.logits[rows].float(), self.labels[rows]


@dataclass(frozen=True)
class BankSettings:
    """All that decides a bank: images, teacher, taps, pooling, and the precision of the pass.

    Raises:
        UserError: the pooling or the precision is not known.
    """

    images: Images
    teacher: Teacher
    taps: tuple[str, ...]
    pooling: str = "global"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch knows it."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a bank is keyed by, JSON-serialisable."""
        return {
            "format": FORMAT,
            "data": self.images.fingerprint,
            "files": self.images.stamp,
            "teacher": self.teacher.fingerprint,
            "taps": list(self.taps),
            "pooling": self.pooling,
            "precision": self.precision,
        }

    def path(self, cache: Path, name: str) -> Path:
        """Where the bank lies under ``cache``: ``name`` and a digest of the fingerprint."""
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()
        return cache / f"{name}-{digest[:16]}.safetensors"
