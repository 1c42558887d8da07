"""A bank's file: columns in one safetensors file, written and checked shard by shard.

A shard is a fixed number of rows in all columns. The file's header holds every shard's checksum and one of its own, so
that damage is found wherever it is, and repaired there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import EIO
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from kvbench.core.bank import bytes_of
from kvbench.utils.environment import processors

SHARD = 1024  # rows, a multiple of a pass's batch; raise `kvbench.core.bank.FORMAT` with it
CHUNK = 2**20  # bytes read at a time
ALIGNMENT = 64  # bytes that the columns start at a multiple of
NAMES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}  # safetensors' names of a bank's dtypes
ITEMSIZES = {name: dtype.itemsize for dtype, name in NAMES.items()}  # bytes
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


class DamagedError(Exception):
    """A file is not a complete bank, for the reason given."""


@dataclass(frozen=True)
class Column:
    """A tensor of the file: ``name``, ``dtype`` (safetensors' name) and a row's ``shape``."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return ITEMSIZES[self.dtype] * prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a bank's file.

    Args:
        fingerprint: of the settings, as JSON.
        maker: what else decided the bits, as JSON; see `kvbench.utils.environment.built_with`.
        rows: N.
        columns: in the file's order, the widest numbers first, so that all are aligned.
    """

    fingerprint: str
    built_with: str
    rows: int
    columns: tuple[Column, ...]

    @staticmethod
    def of(fingerprint: str, built_with: str, rows: int, batch: Mapping[str, Tensor]) -> Layout:
        """Lay out ``rows`` rows like those of ``batch``."""
        columns = tuple(Column(name, NAMES[t.dtype], tuple(t.shape[1:])) for name, t in batch.items())
        return Layout(fingerprint, built_with, rows, columns)

    @cached_property
    def shards(self) -> list[range]:
        """The rows of every shard."""
        return spans(self.rows)

    def header(self, digests: Sequence[str]) -> bytes:
        """The bytes before the first column; always as many, whatever the ``digests`` of the shards."""
        described: dict[str, Any] = {}
        start = 0
        for column in self.columns:
            end = start + self.rows * column.row
            shape = [self.rows, *column.shape]
            described[column.name] = {"dtype": column.dtype, "shape": shape, "data_offsets": [start, end]}
            start = end
        facts = {"fingerprint": self.fingerprint, "built_with": self.built_with, "shards": " ".join(digests)}
        own = hashlib.sha256(json.dumps([facts, described]).encode()).hexdigest()
        text = json.dumps({"__metadata__": {**facts, "header": own}, **described}, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def start(self) -> int:
        """Bytes before the first column."""
        return len(self.header(["0" * 64] * len(self.shards)))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.start + self.rows * sum(column.row for column in self.columns)

    def extents(self, rows: range) -> Iterator[tuple[Column, int, int]]:
        """Where ``rows`` lie: for each column the first byte and their number."""
        start = self.start
        for column in self.columns:
            yield column, start + rows.start * column.row, len(rows) * column.row
            start += self.rows * column.row


def spans(rows: int) -> list[range]:
    """The rows of every shard of ``rows`` rows."""
    return [range(first, min(first + SHARD, rows)) for first in range(0, rows, SHARD)]


def read_header(fd: int) -> tuple[Layout, list[str]]:
    """Read the layout and the shards' checksums of an open file.

    Raises:
        DamagedError: it is no bank, its header is not as it was written, or the file has another size than it says.
        OSError: it cannot be read.
    """
    size = os.fstat(fd).st_size
    length = int.from_bytes(_read(fd, 8, 0), "little")
    if not 0 < length <= min(size - 8, LONGEST_HEADER):
        raise DamagedError(f"a header of {length:,} bytes in a file of {size:,}")
    raw = _read(fd, 8 + length, 0)
    try:
        described = json.loads(raw[8:])
        facts = described.pop("__metadata__")
        columns = tuple(
            Column(name, one["dtype"], tuple(int(n) for n in one["shape"][1:])) for name, one in described.items()
        )
        digests = facts["shards"].split()
        rows = int(next(iter(described.values()))["shape"][0])
        layout = Layout(facts["fingerprint"], facts["built_with"], rows, columns)
        # Sizes first: forged ones would ask for much memory below.
        total = layout.rows * sum(column.row for column in columns)
        complete = total == size - len(raw) and len(digests) == -(-layout.rows // SHARD)
        facts_read = json.loads(layout.fingerprint), json.loads(layout.built_with)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError, OverflowError) as error:
        raise DamagedError("its header cannot be read") from error
    if not (complete and all(isinstance(one, dict) for one in facts_read)):
        raise DamagedError(f"{size:,} bytes do not hold what its header says")
    if layout.header(digests) != raw:
        raise DamagedError("its header is not as it was written")
    return layout, digests


def digest(fd: int, layout: Layout, rows: range) -> str:
    """Checksum of some rows in all columns of an open file. Raises `OSError` where it cannot be read or ends early."""
    checksum = hashlib.sha256()
    for _, first, length in layout.extents(rows):
        for at in range(first, first + length, CHUNK):
            wanted = min(CHUNK, first + length - at)
            chunk = _read(fd, wanted, at)
            if len(chunk) < wanted:
                raise OSError(EIO, "the file ends early")
            checksum.update(chunk)
    return checksum.hexdigest()


def damaged(fd: int, layout: Layout, digests: Mapping[int, str]) -> list[int]:
    """The shards whose rows do not have their checksum, read by ordinary reads: a failing disk is an `OSError`."""
    shards = layout.shards
    with ThreadPoolExecutor(min(8, processors())) as threads:  # hashing frees the interpreter
        found = threads.map(lambda shard: digest(fd, layout, shards[shard]), digests)
        return [shard for shard, one in zip(digests, found, strict=True) if one != digests[shard]]


class Filler:
    """Fills shards of an open file with batches as they come.

    Args:
        fd: of a file that has its full size.
        layout: the file's.
        missing: the shards to fill, in the order in which their rows come.
        done: called with each shard and its checksum once its data are on the disk.
    """

    def __init__(self, fd: int, layout: Layout, missing: Sequence[int], done: Callable[[int, str], object]):
        self.fd, self.layout, self.done = fd, layout, done
        self.missing = list(missing)
        self.waiting: list[Mapping[str, Tensor]] = []

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Take the next rows; a shard's rows never share a batch with another's.

        Raises:
            DamagedError: they do not have the file's columns.
            OSError: they cannot be written.
        """
        if Layout.of("", "", 0, batch).columns != self.layout.columns:
            raise DamagedError("its columns are not those that the teacher gives")
        self.waiting.append({name: rows.cpu() for name, rows in batch.items()})
        shard = self.missing[0]
        rows = self.layout.shards[shard]
        if sum(len(one["labels"]) for one in self.waiting) < len(rows):
            return
        checksum = hashlib.sha256()
        for column, first, _ in self.layout.extents(rows):
            data = bytes_of(torch.cat([one[column.name] for one in self.waiting]))
            _write(self.fd, data, first)
            checksum.update(data)
        os.fsync(self.fd)
        self.waiting = []
        self.missing.pop(0)
        self.done(shard, checksum.hexdigest())


def write_header(fd: int, layout: Layout, digests: Sequence[str]) -> None:
    """Write the header of a file whose shards are all there, and wait until it is on the disk."""
    _write(fd, memoryview(layout.header(digests)), 0)
    os.fsync(fd)


def _read(fd: int, length: int, at: int) -> bytes:
    """``length`` bytes from ``at`` on; fewer only where the file ends: a read may give less than it is asked for."""
    data = os.pread(fd, length, at)
    while len(data) < length and (more := os.pread(fd, length - len(data), at + len(data))):
        data += more
    return data


def _write(fd: int, data: memoryview, at: int) -> None:
    """Write all of ``data``: not to a mapping, where a full disk would end the process."""
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
