"""Data sets: what a split of images is, and batches of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kvbench.errors import UserError, some
from kvbench.packing import Packing
from kvbench.photographs import PhotoImages
from kvbench.provenance import processors
from kvbench.text import shown

SPLITS: Final = ("train", "val")
MAX_WORKERS: Final = 16  # the source's number of loader processes


class Images(Protocol):
    """One split of a data set, read in batches.

    ``__getitems__`` takes indices and returns normalised images (B, 3, size, size) float32 and class indices (B,).
    ``fingerprint`` holds what decides the pixels, JSON-serialisable and the same on every machine; ``stamp`` changes
    where files of the same name and size were written again.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    @property
    def stamp(self) -> str: ...


def need_classes(train: Images, val: Images, root: Path | None) -> None:
    """Raise `UserError` where the splits have different classes, in ``root`` if they lie in one, or only one class."""
    where = f" in {shown(root)}" if root else ""
    if train.classes != val.classes:
        sides = {"train": set(train.classes) - set(val.classes), "val": set(val.classes) - set(train.classes)}
        only = [f"only in {split}: {some(sorted(names))}" for split, names in sides.items() if names]
        told = "; ".join(only) or "the same ones in another order"
        raise UserError(f"train and val have different classes{where}; {told}.")
    if len(train.classes) < 2:
        raise UserError(
            f"There is one class{where}, {some(train.classes)}: every student is right from the start. At least two"
            " are needed."
        )


class _AsIs(Dataset[Any]):
    """Hands a function from indices to a batch to a DataLoader, whose fetcher calls ``__getitems__`` once a batch.

    A `UserError` is handed over like a batch: raised in a worker, its sentence would arrive inside a traceback.
    """

    def __init__(self, read: Callable[[list[int]], Any]):
        self.read = read

    def __getitems__(self, indices: list[int]) -> Any:
        try:
            return self.read(indices)
        except UserError as error:
            return error


def _whole(batch: object) -> object:
    return batch  # a function of the module: where workers are spawned, it is pickled


def in_batches(
    read: Callable[[list[int]], Any], order: Sequence[int], batch_size: int, workers: int | None = None
) -> Iterator[Any]:
    """Yield what ``read`` makes of each batch of indices, in ``order``, read by ``workers`` processes.

    Default: the processors that there are for this process, up to 16. Raises the `UserError` that ``read`` raises.
    """
    if workers is None:
        workers = min(MAX_WORKERS, processors())
    before = {*active_children()}
    started: list[BaseProcess] = []
    loader: DataLoader[Any] = DataLoader(_AsIs(read), batch_size, sampler=order, num_workers=workers, collate_fn=_whole)
    found: Iterator[Any] = iter(())
    try:
        found = iter(loader)
        started += {*active_children()} - before
        for batch in found:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except BaseException:
        _end(started)
        raise
    finally:
        # Now: in a cycle with an error's frames, torch's iterator would close its pipes while it still writes to them.
        del found


def _end(workers: Sequence[BaseProcess]) -> None:
    """End processes at once: a DataLoader waits for each in turn, up to 5 s, until it has read its batch."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        with suppress(RuntimeError):  # torch's word on a worker that had not yet come to know how it would be ended
            worker.join(1)


class _Finite:
    """Reads images and checks that they are numbers; a class, so that it can be pickled."""

    def __init__(self, images: Images):
        self.images = images

    def __call__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.images.__getitems__(indices)
        if torch.isfinite(images.sum()):  # several times quicker than to look at each value
            return images, labels
        finite = torch.isfinite(images).flatten(1).all(1)
        if not finite.all():
            index = indices[int(finite.logical_not().nonzero()[0])]
            raise UserError(f"Image {index} of {type(self.images).__name__} has values that are not finite.")
        return images, labels


def batches(
    images: Images, batch_size: int, order: Sequence[int] | None = None, workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in batches, in ``order`` (default: as they stand), decoded by ``workers`` processes.

    Default: as many as `in_batches` for files; none for generated images, whose rendering uses all threads.

    Raises:
        UserError: an image cannot be read, or has values that are not finite.
    """
    if workers is None and not isinstance(images, PhotoImages):
        workers = 0
    read = _Finite(images)
    order = range(len(images)) if order is None else order
    if workers == 0 or not hasattr(os, "memfd_create"):
        yield from in_batches(read, order, batch_size, workers)
        return
    with ExitStack() as opened:
        folder = None
        with suppress(OSError):  # a full disk, say: the pipe needs none
            made = tempfile.TemporaryDirectory(prefix="kvbench-", ignore_cleanup_errors=True)
            folder = opened.enter_context(made)
        yield from in_batches(Packing(read, folder), order, batch_size, workers)
