"""The feature bank: what students see of a split, and all that decides it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kvbench.core.recipe import POOLINGS, PRECISIONS
from kvbench.data.base import Images
from kvbench.features.teacher import Teacher
from kvbench.utils.errors import unknown

FORMAT = 4  # raise it when a bank's layout changes


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
            "files": self.images.mtime_digest,
            "teacher": self.teacher.fingerprint,
            "taps": list(self.taps),
            "pooling": self.pooling,
            "precision": self.precision,
        }

    def path(self, cache: Path, name: str) -> Path:
        """Where the bank lies under ``cache``: ``name`` and a digest of the fingerprint."""
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()
        return cache / f"{name}-{digest[:16]}.safetensors"
