"""The feature bank: what students see of a split, and all that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kvbench.core.hooks import Layout, find_layouts
from kvbench.core.recipe import POOLINGS, PRECISIONS
from kvbench.data.base import Images
from kvbench.data.contract import check_fingerprint
from kvbench.data.loader import batches
from kvbench.features.teacher import Teacher, takes
from kvbench.utils.errors import unknown
from kvbench.utils.files import json_digest

FORMAT = 6  # raise it when a bank's layout changes


@dataclass(frozen=True)
class BankSettings:
    """All that decides a bank: images, teacher, taps, pooling, and the precision of the pass.

    Raises:
        UserError: the pooling or the precision is not known.

    Example:
        >>> from kvbench.features.teacher import shipped
        >>> images = WORKLOADS["fractals"].images("train", None, 8)
        >>> settings = BankSettings(images, shipped("fractals"), ("layer3.1", "layer4.0", "layer4.1"))
        >>> settings.path(Path(".kvbench"), "fractals-train")
        PosixPath('.kvbench/fractals-train-...')
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

    @cached_property
    def outputs(self) -> tuple[int, ...] | None:
        """The teacher's outputs that are the images' classes; None: all, in their order. See `Teacher.outputs_for`."""
        return self.teacher.outputs_for(self.images.classes)

    @cached_property
    def layouts(self) -> list[Layout]:
        """The layout of each tap's output, found by running the teacher on the first image.

        Raises:
            UserError: a tap cannot be used (`find_layouts`), the first image cannot be read, or the teacher does not
                take images of its size.
        """
        image = next(batches(self.images, 1, [0], workers=0))[0].to(self.teacher.device)
        with takes(self.teacher.name, image):
            return find_layouts(self.teacher.module, self.taps, image[0])

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What a bank is keyed by, JSON-serialisable; found once, since it looks at every image file."""
        return {
            "format": FORMAT,
            "data": check_fingerprint(self.images),
            "files": self.images.mtime_digest,
            "teacher": self.teacher.fingerprint,
            **({} if self.outputs is None else {"outputs": list(self.outputs)}),
            "taps": list(self.taps),
            "pooling": self.pooling,
            "precision": self.precision,
        }

    def path(self, cache: Path, name: str) -> Path:
        """Where the bank lies under ``cache``: ``name`` and a digest of the fingerprint."""
        return cache / f"{name}-{json_digest(self.fingerprint)[:16]}"
