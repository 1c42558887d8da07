"""Files that are replaced in one step, and readers that take no more of a file than it may hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import Any

from kvbench.utils.errors import UserError

LARGEST = 64 * 2**20  # bytes of a text file; the largest reference here has 0.4 MiB
DEEPEST = 100  # levels of a JSON file
LONGEST_NAME = 200  # characters
# How files begin, in lower case, that people have instead of the one they mean.
SIGNATURES = {
    (b"version https://git-lfs", b"version https://hawser"): "a Git LFS pointer, not the file itself: run git lfs pull",
    (b"/annex/objects/",): "a git-annex pointer, not the file itself: run git annex get",
    (b"<!doctype html", b"<html"): "a web page, as servers send instead of a file: download it again",
    (b"<?xml",): "an XML document, as servers send instead of a file: download it again",
    (b"{", b"["): "a JSON document",
    (b"\x1f\x8b",): "a gzip archive: unpack it first",
    (b"\x89hdf",): "an HDF5 file, such as Keras writes",
}
TMP = ".kvbench-tmp-"  # begins the names of files that are being written
MANIFEST = "manifest.json"  # of a bank


@contextmanager
def atomic_write(path: Path, *, fsync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it replaces ``path`` when the block ends without an error.

    Temporary files that killed processes left in the same folder are removed.

    Args:
        path: the file; its folder is made where it is missing.
        fsync: wait until the contents are on the disk.

    Raises:
        UserError: the file cannot be written: the folder is no folder or read-only, or the disk is full.

    Example:
        >>> with atomic_write(Path("table.csv")) as tmp:
        ...     frame.to_csv(tmp)
    """
    tmp = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        tmp, fd = _create_locked(path)
        try:
            yield tmp
            if fsync:
                os.fsync(fd)
            tmp.replace(path)
        finally:
            os.close(fd)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; raises `UserError` as `atomic_write`."""
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; raises `UserError` as `atomic_write`."""
    write_bytes(path, text.encode("utf-8"))


def _create_locked(path: Path) -> tuple[Path, int]:
    """Create a temporary file beside ``path``, locked for as long as it is open."""
    while True:
        tmp = path.parent / f"{TMP}{secrets.token_hex(6)}{path.suffix}"
        fd = os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            flock(fd, LOCK_EX)
        if os.fstat(fd).st_nlink:
            return tmp, fd
        os.close(fd)  # before it was locked, another process took it for abandoned


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes that are no more: nobody holds their locks."""
    for tmp in folder.glob(f"{TMP}*"):
        with suppress(OSError):  # in use, or another process removed it
            fd = os.open(tmp, os.O_RDWR)
            try:
                flock(fd, LOCK_EX | LOCK_NB)
                tmp.unlink()
            finally:
                os.close(fd)


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """A block that writes files to a folder one by one or, ``alone``, removes them; yields whether it may.

    Writers share a folder, and one who is alone finds none of them. Where there is no such folder, it is a link, or its
    file system has no locks, nobody is in the way.
    """
    fd = None
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        flock(fd, (LOCK_EX if alone else LOCK_SH) | LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except OSError:
        free = True
    try:
        yield free
    finally:
        if fd is not None:
            os.close(fd)


def need_writable(folder: Path) -> None:
    """Raise `UserError` where nothing can be written to ``folder``, which need not be there yet."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"Cannot write to the folder {folder}: {error.strerror or error}.") from error


def known_content(start: bytes) -> str:
    """What a file is that begins with ``start``, if it is one of `SIGNATURES`; else an empty text."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for beginnings, what in SIGNATURES.items() if start.startswith(beginnings)), "")


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


def json_digest(facts: object) -> str:
    """SHA-256 of what JSON holds, the same for equal dictionaries."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
    invalid = not name.isprintable() or name.strip(" .") != name.rstrip(" ") or len(name) > LONGEST_NAME
    if invalid or not name or any(char in name for char in '/\\:*?"<>|'):
        raise UserError(
            f"{what} is {name[:LONGEST_NAME]!r}; valid is a name that can be a folder's: up to {LONGEST_NAME} visible"
            " characters without slashes, colons and the like, not beginning or ending with a dot."
        )
    return name
