"""Locks between processes: one writes, the others wait, and log for whom."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, Timeout

from kvbench.utils.errors import UserError
from kvbench.utils.files import LONGEST_NAME, read_json
from kvbench.utils.text import shown

PATIENCE = 0.5  # seconds before a wait is worth a sentence
NO_LOCKS = {ENOSYS, ENOLCK, EOPNOTSUPP}  # what a file system without locks says
POLL = 0.2  # seconds between two tries
logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock ``path`` inside the block; the operating system frees it when its process dies, however it dies.

    Where another process holds it, a log record says who computes ``what`` and since when. The file stays: removing it
    would part those who wait for it from those who come later.

    Raises:
        UserError: the file cannot be written, or its file system has no locks.
    """
    # No soft lock: a file that stands for one would outlive a killed process.
    lock = FileLock(path, poll_interval=POLL, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            logger.info("%s is being computed by %s; waiting.", what, _owner(path))
            lock.acquire()
    except OSError as error:
        remedy = " Choose a folder on a file system that has locks with --kvbench-cache."
        raise UserError(
            f"Cannot lock {path}: {error.strerror or error}.{remedy if error.errno in NO_LOCKS else ''}"
        ) from error
    try:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(path, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now}))
        yield
    finally:
        _write(path, "")
        lock.release()


def _write(path: Path, text: str) -> None:
    with suppress(OSError):  # the owner's name only informs those who wait
        path.write_text(text)


def _owner(path: Path) -> str:
    try:
        owner = read_json(path)
        since = datetime.fromisoformat(owner["since"]).astimezone()
        form = "%H:%M" if since.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M"
        host = shown(str(owner["host"])[:LONGEST_NAME])
        return f"process {int(owner['pid'])} on {host} since {since:{form}}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
