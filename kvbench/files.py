"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvbench.errors import UserError

ASIDE = re.compile(r"\..+-[a-z0-9_]{8}(\.[a-z]+)?")  # what `write_whole` calls its files
LONG_DEAD = 24 * 3600  # seconds after which nobody writes to such a file any more


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes ``path``'s place when the block ends without an error.

    Raises:
        UserError: the file cannot be written: the folder is no folder or read-only, or the disk is full.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        aside = Path(name)
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp's files are private; this one is not
        aside.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def need_writable(folder: Path) -> None:
    """Raise `UserError` where nothing can be written to ``folder``, which need not be there yet."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"Cannot write to the folder {folder}: {error.strerror or error}.") from error


def fsync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, where the system can tell."""
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def clean_leftovers(folder: Path) -> None:
    """Remove what `write_whole` left in ``folder`` where its process was killed, once that is a day ago."""
    for path in folder.iterdir():
        if ASIDE.fullmatch(path.name):
            with suppress(OSError):  # gone, or another user's
                if path.is_file() and time.time() - path.stat().st_mtime > LONG_DEAD:
                    path.unlink()
