"""The files of a bank: all that is asked of a file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from safetensors import safe_open
from torch import Tensor

from kvbench.utils.errors import UserError
from kvbench.utils.files import atomic_write, in_use, need_writable

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Folder:
    """The files of a bank, by name: all that is asked of a file system, so that another kind of store can stand in."""

    path: Path

    def stat(self, name: str) -> tuple[int, int]:
        """Size, and time of change in nanoseconds."""
        found = (self.path / name).stat()
        return found.st_size, found.st_mtime_ns

    def read(self, name: str) -> BinaryIO:
        """Open a file, for ordinary reads: a failing disk behind a memory map would end the process."""
        return (self.path / name).open("rb")

    def columns(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, memory-mapped."""
        with safe_open(self.path / name, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)

    def write(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file, whole or not at all. Raises `UserError` where that cannot be."""
        with atomic_write(self.path / name) as tmp, tmp.open("wb") as file:
            file.writelines(pieces)

    def need_writable(self) -> None:
        """Raise `UserError` where nothing can be written."""
        need_writable(self.path)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """A block that writes files; nobody cleans up meanwhile. Of what it makes no empty folder is left."""
        nearest = self._nearest
        with suppress(OSError):  # what writes says so better
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with in_use(self.path):
                yield
        finally:
            path = self.path.absolute()
            with suppress(OSError):  # it is not empty
                for folder in takewhile(lambda folder: folder != nearest, (path, *path.parents)):
                    folder.rmdir()

    @property
    def _nearest(self) -> Path:
        """The folder or the nearest one above it that there is."""
        path = self.path.absolute()
        return next(folder for folder in (path, *path.parents) if folder.exists())

    def touch(self, name: str) -> None:
        """Let a file be as if it were written now, where that can be."""
        with suppress(OSError):
            os.utime(self.path / name)

    def need_room(self, size: int) -> None:
        """Raise `UserError` where less than ``size`` bytes are free."""
        if (free := shutil.disk_usage(self._nearest).free) < size:
            raise UserError(
                f"Cannot write {self.path}: it needs {size:,} bytes, and {free:,} are free. Make room, or choose"
                " another folder with --kvbench-cache."
            )

    def clear(self) -> None:
        """Remove all."""
        shutil.rmtree(self.path, ignore_errors=True)
