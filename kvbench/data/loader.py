"""Data sets: what a split of images is, and batches of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kvbench.data.base import Images
from kvbench.data.photos import PhotoImages
from kvbench.data.shm import Packing
from kvbench.utils.environment import processors
from kvbench.utils.errors import UserError

MAX_WORKERS: Final = 16  # the source's number of loader processes


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
