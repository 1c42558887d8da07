"""Batches of images, read by other processes where that is quicker."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kvbench.data.base import Images
from kvbench.data.contract import read_checked
from kvbench.data.photos import PhotoImages
from kvbench.data.shm import Packing
from kvbench.utils.environment import processors
from kvbench.utils.errors import UserError
from kvbench.utils.oom import enough_memory

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


def _identity(batch: object) -> object:
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
    loader: DataLoader[Any] = DataLoader(
        _AsIs(read), batch_size, sampler=order, num_workers=workers, collate_fn=_identity,
        generator=torch.Generator(),  # torch's own, from which the user's numbers are drawn, stays as it is
    )  # fmt: skip
    found: Iterator[Any] = iter(())
    try:
        # A default device would be asked for random numbers, and Python warns of forks beside threads.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = iter(loader)
        started += {*active_children()} - before
        while True:
            with enough_memory("reading images", "Close other programs."):
                batch = next(found, None)
            if batch is None:
                break
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


def batches(
    images: Images, batch_size: int, order: Sequence[int] | None = None, workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in batches, in ``order`` (default: as they stand), decoded by ``workers`` processes.

    Default: as many as `in_batches` for files; none for generated images, whose rendering uses all threads.

    Raises:
        UserError: an image cannot be read, or a batch is not what `Images` promises.
    """
    if workers is None and not isinstance(images, PhotoImages):
        workers = 0
    read: Callable[[list[int]], Any] = partial(read_checked, images)
    order = range(len(images)) if order is None else order
    size = None
    with ExitStack() as opened:
        if workers != 0 and hasattr(os, "memfd_create"):
            folder = None
            with suppress(OSError):  # a full disk: the pipe needs no folder
                sockets = tempfile.TemporaryDirectory(prefix="kvbench-", ignore_cleanup_errors=True)
                folder = opened.enter_context(sockets)
            read = Packing(read, folder)
        for pixels, labels in in_batches(read, order, batch_size, workers):
            size = size or pixels.shape[2]
            if pixels.shape[2] != size:
                name = type(images).__name__
                raise UserError(f"{name}: images of {size} and of {pixels.shape[2]} pixels; valid is one size.")
            yield pixels, labels
