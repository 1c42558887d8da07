"""Batches of images, read by other processes where that is quicker."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import active_children, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kvbench.data.base import Images
from kvbench.data.contract import check_batch, read_checked
from kvbench.data.photos import PhotoImages
from kvbench.utils.environment import processors
from kvbench.utils.errors import UserError
from kvbench.utils.oom import enough_memory

STOPS: Final = {signal.SIGINT, signal.SIGTERM}
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


def _begin(_: int) -> None:
    """In a worker: listen to signals again, and end when the parent does: a full pipe would block for ever."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # torch's handlers are in place now

    def follow() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    Thread(target=follow, daemon=True).start()


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
        worker_init_fn=_begin,
        generator=torch.Generator(),  # torch's own, from which the user's numbers are drawn, stays as it is
    )  # fmt: skip
    found: Iterator[Any] = iter(())
    try:
        # A default device would be asked for random numbers, and Python warns of forks beside threads.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A worker that is told to end before it listens itself would run the parent's handlers, and go on as it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            try:
                found = iter(loader)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
    """Yield all images in batches, in ``order`` (default: as they stand).

    Photographs are decoded by ``workers`` processes (default: as many as `in_batches`), which hand bytes over through
    pipes: torch would put tensors into ``/dev/shm``, which is small in a container. Other images are read here.

    Raises:
        UserError: an image cannot be read, or a batch is not what `Images` promises.
    """
    order = range(len(images)) if order is None else order
    read: Callable[[list[int]], Any] = partial(read_checked, images)
    if isinstance(images, PhotoImages):
        read = images.decode
    else:
        workers = 0
    size = None
    for number, batch in enumerate(in_batches(read, order, batch_size, workers)):
        if isinstance(images, PhotoImages):
            first = number * batch_size
            batch = check_batch(images, order[first : first + batch_size], images.normalize(*batch))
        pixels, labels = batch
        size = size or pixels.shape[2]
        if pixels.shape[2] != size:
            name = type(images).__name__
            raise UserError(f"{name}: images of {size} and of {pixels.shape[2]} pixels; valid is one size.")
        yield pixels, labels
