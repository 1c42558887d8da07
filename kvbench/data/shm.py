"""Batches of images on their way from the processes that read them."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Packed:
    """Images and labels on their way from a worker, as which they are unpickled.

    Images lie in a file in memory of their own. torch would put them into ``/dev/shm``, which is small in a container;
    through the pipe between the processes they would cost a quarter of what decoding costs.
    """

    def __init__(self, images: Tensor, labels: Tensor):
        array = np.ascontiguousarray(images.numpy())
        content: Any = array
        with suppress(OSError):  # where such files are forbidden: through the pipe
            content = _filed(array)
        self.parts = content, array.shape, array.dtype, labels.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, self.parts


def _filed(array: npt.NDArray[Any]) -> Any:
    """A handle, for another process, of a file in memory that holds an array."""
    from multiprocessing.reduction import DupFd  # not on every system

    fd = os.memfd_create("kvbench")
    try:
        left = array.data.cast("B")
        while left:
            left = left[os.write(fd, left) :]
        return DupFd(fd)
    finally:
        os.close(fd)


def _unpacked(
    content: Any, shape: tuple[int, ...], dtype: np.dtype[Any], labels: npt.NDArray[Any]
) -> tuple[Tensor, Tensor]:
    if isinstance(content, np.ndarray):
        images = content
    else:
        fd = content.detach()
        try:
            images = np.frombuffer(mmap.mmap(fd, 0), dtype).reshape(shape)
        finally:
            os.close(fd)
    return torch.from_numpy(images), torch.from_numpy(labels)


class Packing:
    """Reads batches of images and labels, in a worker, and packs them; a class, so that it can be pickled.

    ``folder`` is for the worker's sockets, which it does not remove where it is ended.
    """

    def __init__(self, read: Callable[[list[int]], tuple[Tensor, Tensor]], folder: str | None):
        self.read, self.folder = read, folder

    def __call__(self, indices: list[int]) -> Packed:
        tempfile.tempdir = self.folder
        return Packed(*self.read(indices))
