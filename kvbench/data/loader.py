"""Batches of images, read by other processes where that is quicker."""

from __future__ import annotations

import json
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
from kvbench.data.contract import check_batch, check_fingerprint, read_checked
from kvbench.data.photos import PhotoImages, decode_for
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

    Default: the `processors` that there are for this process, up to 16. Raises the `UserError` that ``read`` raises.
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
    for (batch,) in batches_for((images,), batch_size, order, workers):
        yield batch


def batches_for(
    every: Sequence[Images], batch_size: int, order: Sequence[int] | None = None, workers: int | None = None
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield `batches` of several that are the same images, each prepared in its own way: a list with a batch of each.

    A photograph is decoded once. What is prepared alike, as fingerprints say, is read once and is one tensor.

    Raises:
        UserError: as `batches`, or they are not the same images.
    """
    places = _alike(every)
    different = [every[place] for place in dict.fromkeys(places)]
    photos = [images for images in different if isinstance(images, PhotoImages)]
    order = range(len(every[0])) if order is None else order
    read: Callable[[list[int]], Any] = partial(_read_each, different)
    if photos == different:
        read = partial(decode_for, photos)
    else:
        workers = 0
    sizes: dict[int, int] = {}
    for number, parts in enumerate(in_batches(read, order, batch_size, workers)):
        if photos == different:
            indices = order[number * batch_size : (number + 1) * batch_size]
            parts = [check_batch(one, indices, one.normalize(*part)) for one, part in zip(photos, parts, strict=True)]
        found = dict(zip(dict.fromkeys(places), parts, strict=True))
        for place, (pixels, _) in found.items():
            size = sizes.setdefault(place, pixels.shape[2])
            if pixels.shape[2] != size:
                name = type(every[place]).__name__
                raise UserError(f"{name}: images of {size} and of {pixels.shape[2]} pixels; valid is one size.")
        yield [found[place] for place in places]


def _alike(every: Sequence[Images]) -> list[int]:
    """The place of the first that is prepared alike, for each; raises `UserError` where they are other images."""
    if len(every) == 1:
        return [0]
    files = [getattr(images, "samples", None) for images in every]
    if any(len(images) != len(every[0]) for images in every) or any(one != files[0] for one in files):
        raise UserError("One pass for several teachers needs the same images for each: make a pass for each of them.")
    texts = [json.dumps([check_fingerprint(images), images.mtime_digest], sort_keys=True) for images in every]
    return [texts.index(text) for text in texts]


def _read_each(every: Sequence[Images], indices: list[int]) -> list[tuple[Tensor, Tensor]]:
    return [read_checked(images, indices) for images in every]
