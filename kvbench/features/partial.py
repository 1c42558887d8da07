"""A bank that is being computed: a file of full size, and a journal of the shards that are done."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from kvbench.features.shards import LONGEST_HEADER, Column, Filler, Layout, damaged, write_header
from kvbench.utils.errors import UserError
from kvbench.utils.files import fsync_folder

# The errors of file systems that cannot reserve space, or not for this file.
NO_RESERVING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


class PartialBank:
    """The partial bank of ``path``, begun or found; whoever has one holds the bank's lock.

    Args:
        path: where the finished bank will lie.
        layout: its layout.
        fd, notes: the open file and the open journal.
        digests: checksums of the shards that are done.
    """

    def __init__(self, path: Path, layout: Layout, fd: int, notes: int, digests: dict[int, str]):
        self.path, self.layout, self.digests = path, layout, digests
        self._fd, self._notes = fd, notes

    @classmethod
    def begin(cls, path: Path, layout: Layout) -> PartialBank:
        """Lay the file out in full, with no shard done.

        Raises:
            UserError: the disk has too little room; says how much is needed and free.
            OSError: it cannot be written.
        """
        partial, journal = paths(path)
        with ExitStack() as opened:
            opened.callback(discard, path)
            fd = _open(partial, os.O_CREAT | os.O_EXCL, opened)
            reserve(fd, layout.size, path)
            notes = _open(journal, os.O_CREAT | os.O_EXCL, opened)
            _append(notes, _head(layout))
            fsync_folder(path.parent)
            opened.pop_all()
        return cls(path, layout, fd, notes, {})

    @classmethod
    def find(cls, path: Path, fingerprint: str, built_with: str, rows: int) -> PartialBank | None:
        """Open what an earlier process left of the same bank; None where that cannot be resumed here.

        Raises:
            OSError: it cannot be read.
        """
        partial, journal = paths(path)
        with ExitStack() as opened:
            try:
                fd, notes = _open(partial, 0, opened), _open(journal, 0, opened)
                with journal.open("rb") as file:
                    lines = file.read(LONGEST_HEADER).splitlines(keepends=True)
                described = json.loads(lines[0])["columns"]
                columns = tuple(Column(str(name), str(kind), tuple(map(int, shape))) for name, kind, shape in described)
                layout = Layout(fingerprint, built_with, rows, columns)
                if lines[0] != _head(layout) or os.fstat(fd).st_size != layout.size:
                    return None
            except (FileNotFoundError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
                return None
            records = list(_records(lines[1:], len(layout.shards)))
            # Lines that cannot be read, such as a torn last one, make room for what follows.
            os.truncate(notes, sum(map(len, lines[: 1 + len(records)])))
            os.lseek(notes, 0, os.SEEK_END)
            opened.pop_all()
        return cls(path, layout, fd, notes, dict(records))  # of a shard computed twice, the later

    def discard_damaged(self) -> list[int]:
        """Take shards that are not as recorded for missing, and return them."""
        invalid = damaged(self._fd, self.layout, self.digests)
        for shard in invalid:
            del self.digests[shard]
        return invalid

    @property
    def missing(self) -> list[int]:
        """The shards that are not done."""
        return [shard for shard in range(len(self.layout.shards)) if shard not in self.digests]

    @property
    def done(self) -> int:
        """Rows of the shards that are done."""
        return sum(len(self.layout.shards[shard]) for shard in self.digests)

    def filler(self) -> Filler:
        """What fills the missing shards and records each."""
        return Filler(self._fd, self.layout, self.missing, self._record)

    def finish(self) -> None:
        """Write the header, and rename the file to the bank's."""
        write_header(self._fd, self.layout, [self.digests[shard] for shard in range(len(self.layout.shards))])
        partial, journal = paths(self.path)
        partial.replace(self.path)
        fsync_folder(self.path.parent)
        journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; what is done stays for the next process, and where nothing is, nothing stays."""
        os.close(self._fd)
        os.close(self._notes)
        if not self.digests:
            discard(self.path)

    def _record(self, shard: int, digest: str) -> None:
        _append(self._notes, json.dumps([shard, digest]).encode() + b"\n")
        self.digests[shard] = digest


def paths(path: Path) -> tuple[Path, Path]:
    """The partial bank of ``path`` and its journal."""
    return path.with_suffix(".partial"), path.with_suffix(".journal")


def discard(path: Path) -> bool:
    """Remove the partial bank of ``path``; True if there was one."""
    found = [file for file in paths(path) if file.exists()]
    for file in found:
        file.unlink()
    return bool(found)


def _open(path: Path, flags: int, opened: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | flags, 0o666)
    opened.callback(os.close, fd)
    return fd


def _head(layout: Layout) -> bytes:
    """A journal's first line."""
    described = [[one.name, one.dtype, [*one.shape]] for one in layout.columns]
    facts = {
        "fingerprint": layout.fingerprint,
        "built_with": layout.built_with,
        "rows": layout.rows,
        "columns": described,
    }
    return json.dumps(facts).encode() + b"\n"


def _records(lines: Sequence[bytes], shards: int) -> Iterator[tuple[int, str]]:
    """What a journal's lines record, up to the first that cannot be read."""
    for line in lines:
        try:
            shard, digest = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        if not line.endswith(b"\n") or type(shard) is not int or shard not in range(shards) or type(digest) is not str:
            return
        yield shard, digest


def _append(notes: int, line: bytes) -> None:
    """Add a line to an open journal and wait until it is on the disk."""
    while line:  # what an error leaves of it counts for nothing
        line = line[os.write(notes, line) :]
    os.fsync(notes)


def reserve(fd: int, size: int, path: Path) -> None:
    """Give an open file its size, with room on the disk for all of it.

    Raises:
        UserError: the disk has not the room.
        OSError: anything else.
    """
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as error:
                if error.errno not in NO_RESERVING:
                    raise
        os.truncate(fd, size)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise UserError(
            f"Cannot write {path}: it needs {size:,} bytes, and {free:,} are free ({error.strerror}). Make room, or"
            " choose another folder with --kvbench-cache."
        ) from error


def shard_names(layout: Layout, shards: Sequence[int]) -> str:
    """Name shards for a user: their numbers and rows, from 1."""
    spans = [(shard, layout.shards[shard]) for shard in shards[:3]]
    names = ", ".join(f"{n + 1} (images {rows.start + 1:,} to {rows.stop:,})" for n, rows in spans)
    more = f" and {len(shards) - 3:,} more" if len(shards) > 3 else ""
    return f"shard{'s' if len(shards) > 1 else ''} {names}{more} of {len(layout.shards):,}"
