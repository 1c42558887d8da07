"""What lies in a cache folder: listed, and removed by name, kind and age.

Only files that are called and laid out as kvbench's own are looked at. No link is followed, and what a running process
writes is left alone.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from kvbench.utils.errors import UserError, shorten, unknown
from kvbench.utils.files import MANIFEST, TMP, in_use, read_json
from kvbench.utils.text import shown, size

KEY = "[0-9a-f]{16}"
TEMPORARY = rf"{re.escape(TMP)}[0-9a-f]+(?:\.\w+)?"
KINDS = {  # what the path of a file in the cache is like; an entry is what stands in the first group
    "bank": rf"([^/]+-{KEY})/(?:part-\d{{5,}}\.safetensors|{re.escape(MANIFEST)}|{TEMPORARY})",
    "checkpoint": rf"(checkpoints/[^/]+-{KEY})/[^/]+-[0-9a-f]{{8}}/"
    rf"(?:(?:seed|replicate)-\d+\.safetensors|{TEMPORARY})",
    "sweep": rf"(sweeps/[^/]+)/(?:[^/]+-{KEY}(?:-[0-9a-f]{{8}})?\.json|{TEMPORARY})",
    "training": rf"(trainings/[^/]+)/(?:[^/]+-{KEY}-[0-9a-f]{{8}}\.json|{TEMPORARY})",
    "images": rf"([^/]+-{KEY}\.(?:scan\.json|unreadable\.txt|duplicates\.json))",
}
FOLDERS = re.compile(rf"[^/]+-{KEY}|checkpoints(?:/[^/]+){{0,2}}|(?:sweeps|trainings)(?:/[^/]+)?")  # that may hold some
UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}  # seconds


class File(NamedTuple):
    """A file of an entry; its path is relative to the cache."""

    path: str
    size: int
    changed: float  # seconds since the epoch


@dataclass(frozen=True)
class Entry:
    """What belongs together in a cache: a bank, a suite's states, results of sweeps or tasks, notes on image files.

    Args:
        kind: one of `KINDS`.
        name: its path in the cache.
        files: at least one.
    """

    kind: str
    name: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def changed(self) -> float:
        """When a file was last written or, of a bank, when it was last opened: seconds since the epoch."""
        return max(file.changed for file in self.files)


@dataclass(frozen=True)
class Listing:
    """A cache's entries, largest first, and what else is there.

    Args:
        cache: the folder.
        entries: kvbench's own.
        others: names at the top of the folder that are not, or not known to be: reports, links, anything else.
        problems: what could not be read, a sentence each.
    """

    cache: Path
    entries: tuple[Entry, ...]
    others: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def select(self, names: Sequence[str] = (), kinds: Sequence[str] = (), older_than: float = 0) -> list[Entry]:
        """Entries of one of these kinds, whose name fits one of the patterns, unchanged for ``older_than`` seconds.

        Raises:
            UserError: there is no such kind, or no entry whose name fits a pattern.
        """
        for kind in kinds:
            if kind not in KINDS:
                raise unknown("kind of entry", kind, KINDS)
        for name in names:
            if not any(fnmatchcase(entry.name, name) for entry in self.entries):
                raise unknown("entry of the cache", name, [entry.name for entry in self.entries])
        now = time.time()
        return [
            entry
            for entry in self.entries
            if (not kinds or entry.kind in kinds)
            and (not names or any(fnmatchcase(entry.name, name) for name in names))
            and (not older_than or now - entry.changed >= older_than)
        ]


def look(cache: Path) -> Listing:
    """List a cache, which need not be there; files that cannot be looked at are told of, never raised.

    Example:
        >>> look(Path("no-such-folder")).entries
        ()
    """
    found: dict[tuple[str, str], list[File]] = {}
    others: set[str] = set()
    problems: list[str] = []

    def problem(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # another process may remove something meanwhile
            problems.append(f"{shown(error.filename)} cannot be read: {error.strerror}")

    for here, folders, files in os.walk(cache, onerror=problem):  # which follows no links
        inner = Path(here).relative_to(cache)
        paths = [(inner / name).as_posix() for name in (*folders, *files)]
        folders[:] = [name for name, path in zip(folders, paths, strict=False) if FOLDERS.fullmatch(path)]
        for path in paths:
            try:
                facts = (cache / path).lstat()
            except OSError as error:
                problem(error)
                continue
            kind, name = _belongs(path)
            if kind and stat.S_ISREG(facts.st_mode):
                found.setdefault((kind, name), []).append(File(path, facts.st_size, facts.st_mtime))
            elif not (stat.S_ISDIR(facts.st_mode) and FOLDERS.fullmatch(path)):
                others.add(path)
    entries = [Entry(kind, name, tuple(sorted(files))) for (kind, name), files in found.items()]
    entries.sort(key=lambda entry: (-entry.size, entry.name))
    return Listing(cache, tuple(entries), tuple(sorted(others)), tuple(problems))


def _belongs(path: str) -> tuple[str, str]:
    """The kind and the name of the entry that a file belongs to; empty texts where it is none of kvbench's."""
    for kind, pattern in KINDS.items():
        if match := re.fullmatch(pattern, path):
            return kind, match[1]
    return "", ""


def about(cache: Path, entry: Entry) -> str:
    """What a bank was made from, as its manifest says; of other entries the number of files."""
    if entry.kind != "bank":
        return f"{len(entry.files)} file{'s' * (len(entry.files) != 1)}"
    if not any(file.path.endswith(f"/{MANIFEST}") for file in entry.files):
        return "not complete"
    try:
        facts = read_json(cache / entry.name / MANIFEST)["bank"]
        return shown(f"{facts['teacher']['name']}, {facts['precision']}, {' '.join(facts['taps'])}")[:80]
    except (UserError, LookupError, TypeError):
        return "its manifest cannot be read"


def table(listing: Listing, entries: Sequence[Entry]) -> str:
    """Some of a cache's entries as a table, with a line on their size and on what else is there."""
    from tabulate import tabulate

    rows = [
        [entry.kind, shown(entry.name), size(entry.size), age(time.time() - entry.changed), about(listing.cache, entry)]
        for entry in entries
    ]
    text = tabulate(rows, ["kind", "name", "size", "unused for", ""], tablefmt="github", disable_numparse=True)
    total = f"{len(entries)} of {len(listing.entries)} entries of {shown(listing.cache)}"
    parts = [text] if rows else []
    parts.append(f"{total}, {size(sum(entry.size for entry in entries))}.")
    if listing.others:
        parts.append(f"Never removed, as it is not kvbench's to compute again: {shorten(listing.others)}.")
    return "\n\n".join([*parts, *(f"{problem}." for problem in listing.problems)])


def age(seconds: float) -> str:
    """How long ago, in the largest unit that makes at least two."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return "moments"


def remove(cache: Path, entry: Entry) -> str:
    """Remove an entry's files, as they were listed, and the folders that are empty then.

    Returns why something of it is left, or an empty text.
    """
    left = ""
    with in_use(cache / entry.name, alone=True) as free:
        for file in entry.files if free else ():
            try:
                with suppress(FileNotFoundError):  # another process was quicker
                    _unlink(cache, Path(file.path))
            except BlockingIOError:  # noqa: PERF203 (one file may go where another may not)
                free = False
            except OSError as error:
                left = error.strerror or str(error)
    return left if free else "a running process writes to it"


def _unlink(cache: Path, path: Path) -> None:
    """Remove a file below ``cache``, going through no link, whatever has been put there since it was listed."""
    folders = [os.open(cache, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for name in path.parts[:-1]:
            folders.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folders[-1]))
        if path.name.startswith(TMP):
            _need_abandoned(path.name, folders[-1])
        os.unlink(path.name, dir_fd=folders[-1])
        with suppress(OSError):  # not empty
            for folder, name in zip(folders[-2::-1], path.parts[-2::-1], strict=True):
                os.rmdir(name, dir_fd=folder)
    finally:
        for folder in folders:
            os.close(folder)


def _need_abandoned(name: str, folder: int) -> None:
    """Raise `BlockingIOError` where a process is writing a temporary file."""
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    finally:
        os.close(fd)


def read_age(text: str) -> float:
    """Seconds of an age such as ``90m``, ``12h``, ``30d`` or ``2w``; ``0`` is any.

    Example:
        >>> read_age("2d") / 3600
        48.0
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text, re.ASCII)
    if match is None and text != "0":
        raise UserError(f"Cannot read the age {text!r}: give a number with a unit, such as 90m, 12h, 30d or 2w, or 0.")
    return int(match[1]) * UNITS[match[2]] if match else 0.0
