"""Locks between processes: one makes, the others wait and are told for whom."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from kvbench.errors import UserError

PATIENCE = 0.5  # seconds before a wait is worth a sentence
NO_LOCKS = {ENOSYS, ENOLCK, EOPNOTSUPP}  # what a file system without locks says
POLL = 0.2  # seconds between two tries
Say = Callable[[str], object]  # told a sentence for the user


@contextmanager
def held(path: Path, what: str, say: Say) -> Iterator[None]:
    """Hold the lock ``path`` inside the block; the operating system frees it when its process dies, however it dies.

    Where another process holds it, ``say`` is told once who makes ``what`` and since when. The file stays: to remove it
    would part those who wait for it from those who come later.

    Raises:
        UserError: the file cannot be written, or its file system has no locks.
    """
    lock = FileLock(path, poll_interval=POLL)
    try:
        try:
            take(lock, PATIENCE)
        except Timeout:
            say(f"{what} is being made by {_owner(path)}; waiting.")
            take(lock, -1)
    except (OSError, NotImplementedError) as error:
        lock.release(force=True)
        lockless = isinstance(error, NotImplementedError) or error.errno in NO_LOCKS
        remedy = " Choose a folder on a file system that has locks with --kvbench-cache." if lockless else ""
        raise UserError(f"Cannot lock {path}: {getattr(error, 'strerror', None) or error}.{remedy}") from error
    try:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(path, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now}))
        yield
    finally:
        _write(path, "")
        lock.release()


def take(lock: FileLock, seconds: float) -> None:
    """Take a lock within ``seconds`` (negative: however long it takes).

    Raises:
        Timeout: another process holds it.
        NotImplementedError: its file system has no locks; what filelock takes then would outlive its process.
        OSError: its file cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of such a soft lock
            lock.acquire(timeout=seconds)
    finally:
        if isinstance(lock, SoftFileLock):
            lock.release(force=True)
            raise NotImplementedError(f"the file system of {Path(lock.lock_file).parent} has no locks")


def _write(path: Path, text: str) -> None:
    with suppress(OSError):  # who holds it is news for those who wait, no more
        path.write_text(text)


def _owner(path: Path) -> str:
    try:
        told = json.loads(path.read_text())
        since = datetime.fromisoformat(told["since"]).astimezone()
        form = "%H:%M" if since.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M"
        return f"process {int(told['pid'])} on {told['host']} since {since:{form}}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
