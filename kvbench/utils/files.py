"""Files that appear whole or not at all, and readers that take no more of a file than it may hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kvbench.utils.errors import UserError

LARGEST = 64 * 2**20  # bytes of a text file; the largest reference here has 0.4 MiB
DEEPEST = 100  # levels of a JSON file
LONGEST_NAME = 200  # characters
ASIDE = re.compile(r"\..*-([0-9a-f]{6})-(\d+)-[a-z0-9_]{8}(\.\w+)?")  # machine, process, what tempfile draws
OLD = 24 * 3600.0  # seconds after which a file that another machine left aside is taken for forgotten
_writing: set[str] = set()  # names of files that this process is writing aside
_one = threading.Lock()  # threads write side by side; the mask can only be read by setting it


@contextmanager
def write_whole(path: Path, *, forced: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes ``path``'s place when the block ends without an error.

    What a killed process left aside in the same folder is removed. ``forced``: wait until it is on the disk.

    Raises:
        UserError: the file cannot be written: the folder is no folder or read-only, or the disk is full.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.stem}-{_machine()}-{os.getpid()}-"
        with _one:
            sweep(path.parent)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
            os.close(handle)
            aside = Path(name)
            _writing.add(aside.name)
        yield aside
        if forced:
            with aside.open("rb") as written:
                os.fsync(written.fileno())
        with _one:
            umask = os.umask(0)
            os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp's files are private; this one is not
        aside.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
            _writing.discard(aside.name)


def sweep(folder: Path) -> None:
    """Remove what `write_whole` left aside in ``folder`` when its process was killed."""
    for path in folder.glob(".*"):
        made = ASIDE.fullmatch(path.name)
        if made is None or path.name in _writing:
            continue
        with suppress(OSError):  # another run may sweep, too
            dead = made[1] == _machine() and not _alive(int(made[2]))
            if dead or time.time() - path.stat().st_mtime > OLD:
                path.unlink()


def _machine() -> str:
    """Names this machine in a file's name: a process number says nothing on another."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _alive(process: int) -> bool:
    """Whether another process of this number is there."""
    if process == os.getpid():
        return False  # in a container the numbers soon come again
    if os.name != "posix":
        return True  # there, asking by a signal would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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


def read_bytes(path: Path) -> bytes:
    """Read a small file; raises `UserError` where there is none, it can't be read, or has more than `LARGEST` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1) if os.fstat(file.fileno()).st_size <= LARGEST else None
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UserError(f"{path} can't be read: {error}.") from None
    if content is None or len(content) > LARGEST:
        raise UserError(f"{path} is too large: at most {LARGEST // 2**20} MiB are read of such a file.")
    return content


def read_text(path: Path) -> str:
    """Read a text in UTF-8, with or without a byte order mark; raises `UserError` as `read_bytes`, or if it is none."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read as text in UTF-8, as JSON and tables are: {error}.") from None


def read_json(path: Path) -> Any:
    """Read a JSON file: `read_text`'s limits, and at most `DEEPEST` levels; raises `UserError` for anything else."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}.") from None
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise UserError(f"{path} can't be read as JSON: it has more than {DEEPEST} levels.")
    return content


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV table as texts: its columns, and rows that have a cell for each.

    Raises:
        UserError: `read_text`'s, or it is no table: empty, a column twice, a row too short or too long.
    """
    text = read_text(path)
    try:
        columns, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (csv.Error, ValueError) as error:
        why = "it is empty" if isinstance(error, ValueError) else error
        raise UserError(f"{path} can't be read as a CSV table: {why}.") from None
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} can't be read as a CSV table: it has a column twice.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise UserError(
                f"{path} can't be read as a CSV table: row {number} has {len(row)} cells for {len(columns)} columns."
            )
    return columns, rows


def check_name(name: str, what: str) -> str:
    """Return a name that can be a folder's or a file's; raises `UserError` for one that would lead elsewhere."""
    odd = not name.isprintable() or name.strip(" .") != name.rstrip(" ") or len(name) > LONGEST_NAME
    if odd or not name or any(char in name for char in '/\\:*?"<>|'):
        raise UserError(
            f"{what} is {name[:LONGEST_NAME]!r}; valid is a name that can be a folder's: up to {LONGEST_NAME} visible"
            " characters without slashes, colons and the like, not beginning or ending with a dot."
        )
    return name
