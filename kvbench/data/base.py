"""Data sets: what a split of images is, and batches of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from torch import Tensor

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.text import shown

SPLITS: Final = ("train", "val")


class Images(Protocol):
    """One split of a data set, read in batches.

    ``__getitems__`` takes indices and returns normalised images (B, 3, size, size) float32 and class indices (B,).
    ``fingerprint`` holds what decides the pixels, JSON-serialisable and the same on every machine; ``mtime_digest``
    changes where files of the same name and size were written again.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    @property
    def mtime_digest(self) -> str: ...


def need_classes(train: Images, val: Images, root: Path | None) -> None:
    """Raise `UserError` where the splits have different classes, in ``root`` if they lie in one, or only one class."""
    where = f" in {shown(root)}" if root else ""
    if train.classes != val.classes:
        sides = {"train": set(train.classes) - set(val.classes), "val": set(val.classes) - set(train.classes)}
        only = [f"only in {split}: {shorten(sorted(names))}" for split, names in sides.items() if names]
        told = "; ".join(only) or "the same ones in another order"
        raise UserError(f"train and val have different classes{where}; {told}.")
    if len(train.classes) < 2:
        raise UserError(
            f"There is one class{where}, {shorten(train.classes)}: every student is right from the start. At least two"
            " are needed."
        )
