"""Looking through the files of photographs before they are used: those that cannot be read, and those in both splits.

What is found is kept in the cache as indices into the listing, so that a file there can name no other image.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL

from kvbench.data.base import Images
from kvbench.data.loader import in_batches
from kvbench.data.photos import PhotoImages, UnreadableError, decode
from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import need_writable, write_text
from kvbench.utils.progress import OnProgress, Progress, ignore
from kvbench.utils.text import shown

FORMAT: Final = 2  # raise it when what is readable changes, or the files' layout
BATCH: Final = 64  # images between two reports of progress
TAIL: Final = 4096  # bytes at a file's end that tell most files of one size apart
MAX_COMPARED: Final = 50_000  # files opened to look for the same one in both splits
READERS: Final = 16  # threads: they wait for the disk

logger = logging.getLogger(__name__)


def readable(
    images: Images, split: str, cache: Path, name: str, on_progress: OnProgress = ignore
) -> tuple[Images, str]:
    """Leave out the files that cannot be read; returns the others, and how many were left out or an empty text.

    They are logged; a text file in ``cache`` lists all of them, with reasons. Every file is decoded once: what was
    found is kept in ``cache`` and holds until a file changes. Images that are not in files are returned as they are.

    Raises:
        UserError: of a class, or of all, nothing is left; the cache cannot be written.
    """
    if not isinstance(images, PhotoImages):
        return images, ""
    key = _state(images)
    path = cache / f"{name}-{split}-{key[:16]}.scan.json"
    found = _read(path, key, partial(_reasons, count=len(images)))
    known = found is not None
    if found is None:
        need_writable(cache)  # before the scan, not after it
        found, lasting = _look(images, f"{name}-{split}: looking for unreadable files", on_progress)
        if lasting:
            _write(path, key, sorted(found.items()))
    if not found:
        return images, ""
    listed = cache / f"{name}-{split}-{key[:16]}.unreadable.txt"
    lines = [f"{shown(images.name(i))}: {shown(found[i])}\n" for i in sorted(found)]
    if not (known and listed.exists()):  # beside complete banks nothing has to be writable
        write_text(listed, "".join(lines))
    note = f"{len(found):,} of {len(images):,} {split} images are left out, since they cannot be read"
    logger.warning(
        "%s: %s. All, with reasons: %s", note, shorten([images.name(i) for i in sorted(found)]), shown(listed)
    )
    left = [sample for i, sample in enumerate(images.samples) if i not in found]
    lost = {label for _, label in images.samples} - {label for _, label in left}
    if lost:
        names = shorten([images.classes[label] for label in sorted(lost)])
        raise UserError(f"No image in {split} can be read of {names}. All, with reasons: {shown(listed)}")
    return replace(images, samples=left), note


def _look(images: PhotoImages, description: str, on_progress: OnProgress) -> tuple[dict[int, str], bool]:
    """Decode every file; returns why some cannot be read, by their indices, and whether that will stay so."""
    found: dict[int, str] = {}
    lasting, done = True, 0
    for tried in in_batches(partial(_try, images), range(len(images)), BATCH):
        for index, error in tried:
            if error is not None:
                found[index] = error.reason
                lasting &= error.lasting
        done += len(tried)
        on_progress(Progress(description, done, len(images), "file"))
    return found, lasting


def _try(images: PhotoImages, indices: list[int]) -> list[tuple[int, UnreadableError | None]]:
    return [(index, _refusal(images.samples[index][0], images.size)) for index in indices]


def _refusal(path: str, size: int) -> UnreadableError | None:
    try:
        decode(path, size)
    except UnreadableError as error:
        return error
    return None


def in_both(train: Images, val: Images, cache: Path, name: str) -> str:
    """Say, and log, which validation images are training images, too, byte for byte; empty where there are none.

    Only files that have a size in common are opened, at most `MAX_COMPARED` of them; what was found is kept in
    ``cache``. Generated images are not compared.
    """
    if not (isinstance(train, PhotoImages) and isinstance(val, PhotoImages)):
        return ""
    key = hashlib.sha256(f"{_state(train)} {_state(val)}".encode()).hexdigest()
    path = cache / f"{name}-{key[:16]}.duplicates.json"
    chosen, val_chosen, complete = _alike(train.survey.sizes, val.survey.sizes)
    pairs = _read(path, key, partial(_pairs, counts=(len(train), len(val))))
    if pairs is None:
        pairs = _same(train, chosen, val, val_chosen)
        with suppress(UserError):  # beside complete banks nothing has to be writable
            _write(path, key, pairs)
    if not pairs:
        return ""
    first = shorten([f"{val.name(j)} is {train.name(i)}" for i, j in pairs])
    looked = "" if complete else f" {len(chosen) + len(val_chosen):,} files were compared, not all."
    note = f"{len(pairs):,} of {len(val):,} val images are train images, too, byte for byte: {first}.{looked}"
    logger.warning("%s", note)
    return note


def _alike(sizes: npt.NDArray[np.int64], val_sizes: npt.NDArray[np.int64]) -> tuple[list[int], list[int], bool]:
    """Indices in both splits of files whose size both have, rare sizes first, and whether those are all of them."""
    common = np.intersect1d(sizes[sizes > 0], val_sizes[val_sizes > 0])
    counts = np.array([0] * len(common))
    for part in (sizes, val_sizes):
        kept = part[np.isin(part, common)]
        counts += np.bincount(np.searchsorted(common, kept), minlength=len(common))
    order = np.argsort(counts, kind="stable")
    few = common[order[np.cumsum(counts[order]) <= MAX_COMPARED]]
    chosen, val_chosen = (np.flatnonzero(np.isin(part, few)).tolist() for part in (sizes, val_sizes))
    return chosen, val_chosen, len(few) == len(common)


def _same(train: PhotoImages, chosen: Sequence[int], val: PhotoImages, val_chosen: Sequence[int]) -> list[list[int]]:
    """Pairs of indices (train, val) of files with the same content, one for each file of the validation split."""
    ends = _digests(train, chosen, TAIL), _digests(val, val_chosen, TAIL)
    both = {*ends[0].values()} & {*ends[1].values()}
    close = [[i for i, end in part.items() if end in both] for part in ends]
    first: dict[bytes, int] = {}
    for i, digest in _digests(train, close[0]).items():
        first.setdefault(digest, i)
    return [[first[digest], j] for j, digest in _digests(val, close[1]).items() if digest in first]


def _digests(images: PhotoImages, chosen: Sequence[int], tail: int = 0) -> dict[int, bytes]:
    """A digest of each chosen file, or of its size and its last ``tail`` bytes; none of what cannot be read."""

    def digest(index: int) -> bytes:
        checksum = hashlib.blake2b()
        try:
            with Path(images.samples[index][0]).open("rb") as file:
                if tail:
                    size = os.fstat(file.fileno()).st_size
                    checksum.update(b"%d " % size)
                    file.seek(max(0, size - tail))
                while block := file.read(1 << 20):
                    checksum.update(block)
        except OSError:
            return b""
        return checksum.digest()

    with ThreadPoolExecutor(READERS) as pool:
        return {i: found for i, found in zip(chosen, pool.map(digest, chosen), strict=True) if found}


def _state(images: PhotoImages) -> str:
    """What tells one state of the files, and what they are read with, from another."""
    read_with = json.dumps([FORMAT, PIL.__version__, images.size, images.survey.state])
    return hashlib.sha256(read_with.encode()).hexdigest()


def _write(path: Path, key: str, found: Sequence[Sequence[object]]) -> None:
    write_text(path, json.dumps({"key": key, "found": found}) + "\n")


def _read(path: Path, key: str, check: Callable[[Iterable[Any]], Any]) -> Any:
    """What `_write` kept under ``key``, as ``check`` returns it; None where that is not there or not sound."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return check(kept["found"]) if kept["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _reasons(found: Iterable[Any], count: int) -> dict[int, str]:
    return {_index(index, count): str(reason) for index, reason in found}


def _pairs(found: Iterable[Any], counts: tuple[int, int]) -> list[list[int]]:
    return [[_index(i, counts[0]), _index(j, counts[1])] for i, j in found]


def _index(index: object, count: int) -> int:
    """``index`` if it is one of ``count`` images; raises `ValueError` otherwise."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise ValueError(index)
    return index
