"""Banks on disk: a folder of part files and a manifest.

A part is some rows of every column, in one safetensors file that holds its own checksum. One that is there and has it
is done; a damaged one is missing. A part is written whole or not at all, with the same bits whoever computes it: any
number of processes may fill a bank at once, die, and go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from kvbench.core.bank import FeatureBank, Parts
from kvbench.core.numerics import default_numerics
from kvbench.features import extract as extraction
from kvbench.features.bucket import Bucket
from kvbench.features.folder import MANIFEST, Folder
from kvbench.features.spec import BankSettings
from kvbench.utils.environment import built_with, processors
from kvbench.utils.errors import UserError
from kvbench.utils.files import read_json
from kvbench.utils.progress import OnProgress, Progress, ignore

ROWS = 2048  # of a part, a multiple of a pass's batch; raise `kvbench.features.spec.FORMAT` with it
CHUNK = 2**20  # bytes read at a time
LONGEST_HEADER = 2**20  # bytes; that of a hundred taps has 10,000
BLANK = "0" * 64  # stands for a part's checksum while that is computed
logger = logging.getLogger(__name__)


class DamagedError(Exception):
    """A file is no part of the bank, for the reason given."""


class Part(NamedTuple):
    """A part whose checksum was compared: it is in order as long as size and time of change stay."""

    sha256: str
    built_with: str  # JSON; see `kvbench.utils.environment.built_with`
    size: int
    mtime: int  # nanoseconds


@dataclass(frozen=True)
class Store:
    """One bank of a cache: where it lies, and what it is computed from.

    Args:
        settings: all that decides it.
        cache: the folder of all banks.
        name: begins the folder's name and every sentence about it.
        device: the teacher's.
        on_progress: called with the images done, after every batch.
        verify: compare all checksums, also those of files that have not changed since that was last done.
        bucket: the URL of a folder that fsspec reaches, to share the bank by; the cache has copies.

    Example:
        >>> store = Store(settings, Path(".kvbench"), "mine-train", torch.device("cpu"))
        >>> store.fill(range(0, len(store.parts), 2))  # another machine fills the others
        >>> bank = store.open()
    """

    settings: BankSettings
    cache: Path
    name: str
    device: torch.device
    on_progress: OnProgress = ignore
    verify: bool = False
    bucket: str = ""
    _known: dict[int, Part] = field(default_factory=dict, init=False)  # the parts that are in order
    _columns: dict[int, dict[str, Tensor]] = field(default_factory=dict, init=False)  # theirs

    @cached_property
    def folder(self) -> Folder:
        """Where it lies."""
        path = self.settings.path(self.cache, self.name)
        return Bucket(path, f"{self.bucket.rstrip('/')}/{path.name}") if self.bucket else Folder(path)

    @cached_property
    def parts(self) -> list[range]:
        """The rows of each part."""
        rows = len(self.settings.images)
        return [range(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]

    @default_numerics()
    def fill(self, parts: Iterable[int]) -> None:
        """Compute those of ``parts`` that are missing or damaged; safe to repeat, in any number of processes at once.

        Raises:
            UserError: a part cannot be read or written, or the pass fails.
        """
        asked = sorted(parts)
        if wrong := self._look(asked):
            self.folder.need_writable()
            self._fill(asked, list(wrong))

    @default_numerics()
    def open(self, *, fresh: bool = False) -> FeatureBank:
        """Open the bank, memory-mapped; what is missing or damaged is computed first, and the folder written to.

        ``fresh`` removes what there is of an incomplete bank, instead of going on with it.

        Raises:
            UserError: it was computed with other settings, cannot be read or written, or the pass fails.
        """
        where, every = self.folder.path, range(len(self.parts))
        recorded = self._read_manifest()
        self._known.update({} if self.verify else recorded)
        if wrong := self._look(every):
            damage = self._damage(wrong)
            try:
                self.folder.need_writable()  # before the pass, not after it
            except UserError as error:
                raise UserError(f"{where} cannot be used: {damage}. {error}" if damage else str(error)) from error
            if fresh:
                self.folder.clear()
                self._known.clear()
                recorded, wrong = {}, dict.fromkeys(every, "")
            elif damage:
                logger.warning("%s: %s: %s; computed again.", self.name, where, damage)
            self._fill(every, list(wrong))
            if wrong := self._look(every):
                damage = self._damage(wrong) or "a part is gone"
                raise UserError(f"{where} cannot be used right after it was computed: {damage}. Is the disk failing?")
        if changed := [part for part in recorded if recorded[part].sha256 != self._known[part].sha256]:
            logger.warning("%s: %s: %s came out with other bits.", self.name, where, self._names(changed))
        if self._known != recorded:
            self._write_manifest()
        self.folder.touch(MANIFEST)  # from which `kvbench cache` knows when the bank was last used
        return self._bank()

    def missing(self) -> dict[int, str]:
        """Parts that are not in order, by number, and what is wrong: an empty text where one is missing.

        Nothing is computed or written. Raises `UserError` where the bank cannot be read, or has other settings.
        """
        self._known.update({} if self.verify else self._read_manifest())
        return self._look(range(len(self.parts)))

    def _read_manifest(self) -> dict[int, Part]:
        """The parts that the manifest knows; none where it cannot be read: all of them are read instead."""
        try:
            found = read_json(self.folder.path / MANIFEST)
            recorded, made = dict(found["bank"]), [_text(one) for one in found["built_with"]]
            parts = [Part(str(sha256), made[k], int(size), int(at)) for sha256, k, size, at in found["parts"]]
        except (UserError, ValueError, LookupError, TypeError, OverflowError):
            return {}
        wanted = self.settings.fingerprint
        if differing := [key for key in sorted({*recorded, *wanted}) if recorded.get(key) != wanted.get(key)]:
            raise UserError(
                f"{self.folder.path} was computed with other settings ({', '.join(differing)}): remove it, and it is"
                " computed again."
            )
        return dict(enumerate(parts[: len(self.parts)]))

    def _write_manifest(self) -> None:
        known = [self._known[part] for part in range(len(self.parts))]
        made = list(dict.fromkeys(part.built_with for part in known))
        parts = [[part.sha256, made.index(part.built_with), part.size, part.mtime] for part in known]
        facts = {"bank": self.settings.fingerprint, "built_with": [json.loads(one) for one in made], "parts": parts}
        try:
            self.folder.write(MANIFEST, json.dumps(facts).encode())
        except UserError as error:  # in a read-only folder all checksums are compared each time
            logger.debug("%s", error)

    def _look(self, parts: Iterable[int]) -> dict[int, str]:
        """Those of ``parts`` that are not in order, with what is wrong: an empty text where one is missing."""
        with ThreadPoolExecutor(min(8, processors())) as threads:  # hashing frees the interpreter
            found = threads.map(lambda part: (part, self._examine(part)), parts)
            return {part: why for part, why in found if why is not None}

    def _examine(self, part: int) -> str | None:
        """Take a part that is in order; else return what is wrong with it."""
        name, known = _file(part), self._known.pop(part, None)
        try:
            stat = self.folder.stat(name)
            if known is None or stat != (known.size, known.mtime):
                known = Part(*self._checksum(part), *stat)
            columns = self.folder.columns(name)
            self._check(part, columns)
        except FileNotFoundError:
            return ""
        except (DamagedError, SafetensorError) as error:
            return str(error)
        except OSError as error:
            path, why = self.folder.path / name, error.strerror or error
            raise UserError(f"Cannot read {path}: {why}. Remove it, and it is computed again.") from error
        self._known[part], self._columns[part] = known, columns
        return None

    def _checksum(self, part: int) -> tuple[str, str]:
        """Compare a part's checksum; returns it, and on what the part was computed. Raises `DamagedError`."""
        with self.folder.read(_file(part)) as file:
            start = file.read(8)
            if not 0 < (length := int.from_bytes(start, "little")) <= LONGEST_HEADER:
                raise DamagedError(f"its header would have {length:,} bytes")
            header = file.read(length)
            try:
                about = json.loads(json.loads(header)["__metadata__"]["kvbench"])
                belongs, made, sha256 = about["part of"], _text(about["built_with"]), str(about["sha256"])
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise DamagedError("its header cannot be read") from error
            hashed = hashlib.sha256(start + header.replace(sha256.encode(errors="replace"), BLANK.encode(), 1))
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
        if hashed.hexdigest() != sha256:
            raise DamagedError("it does not have its checksum")
        if belongs != self._belongs(part):
            raise DamagedError("it belongs to another bank")
        return sha256, made

    def _check(self, part: int, columns: Mapping[str, Tensor]) -> None:
        """Raise `DamagedError` where columns are not those of this part."""
        rows, numbers = len(self.parts[part]), self.settings.dtype
        wanted = {f"tap{i}": (numbers, 2) for i in range(len(self.settings.taps))}
        wanted |= {"labels": (torch.int64, 1), "logits": (numbers, 2)}
        if {name: (column.dtype, column.ndim) for name, column in columns.items()} != wanted:
            raise DamagedError("it has other columns")
        if {*map(len, columns.values())} != {rows} or columns["logits"].shape[1] != len(self.settings.images.classes):
            raise DamagedError("it has other numbers of images or classes")

    def _belongs(self, part: int) -> str:
        """What a part says it is a part of."""
        return hashlib.sha256(json.dumps([self.settings.fingerprint, part], sort_keys=True).encode()).hexdigest()

    def _fill(self, asked: Sequence[int], missing: Sequence[int]) -> None:
        """Compute ``missing`` ones of ``asked`` parts; each is written as soon as it is whole."""
        extraction.check(self.settings)  # before anything is written
        with self.folder.filled():
            self._pass(asked, missing)

    def _pass(self, asked: Sequence[int], missing: Sequence[int]) -> None:
        """Compute parts."""
        made = built_with(self.device)
        work, rows = f"{self.name}: teacher pass", [row for part in missing for row in self.parts[part]]
        total = sum(len(self.parts[part]) for part in asked)
        done, left, waiting = total - len(rows), [*missing], list[extraction.Rows]()
        if done:
            logger.info("%s: resuming after %s of %s images.", self.name, f"{done:,}", f"{total:,}")
            self.on_progress(Progress(work, done, total, "image"))
        for batch in extraction.extract(self.settings, self.device, rows):
            if done == total - len(rows):
                self.folder.need_room(len(rows) * sum(column[0].nbytes for column in batch.values()))
            waiting.append({name: column.cpu() for name, column in batch.items()})
            if sum(len(one["labels"]) for one in waiting) == len(self.parts[left[0]]):
                self._write(left.pop(0), {name: torch.cat([one.pop(name) for one in waiting]) for name in batch}, made)
                waiting.clear()
            done += len(batch["labels"])
            self.on_progress(Progress(work, done, total, "image"))

    def _write(self, part: int, columns: dict[str, Tensor], made: Mapping[str, Any]) -> None:
        """Write a part, and its checksum into it."""
        about = {"part of": self._belongs(part), "built_with": made, "sha256": BLANK}
        # One text: safetensors writes several in any order.
        data = save(columns, {"kvbench": json.dumps(about, sort_keys=True)})
        at = data.index(BLANK.encode())
        sha256 = hashlib.sha256(data).hexdigest().encode()
        self.folder.write(_file(part), data[:at], sha256, memoryview(data)[at + len(BLANK) :])

    def _bank(self) -> FeatureBank:
        """The bank of parts that are all in order."""
        known, parts = zip(*((self._known[part], self._columns[part]) for part in range(len(self.parts))), strict=True)
        digest = hashlib.sha256(json.dumps([part.sha256 for part in known]).encode()).hexdigest()

        def column(name: str) -> Tensor:
            found = [columns[name] for columns in parts]
            if len({one.shape[1] for one in found}) > 1:
                raise UserError(f"{self.folder.path} has parts of unlike widths: remove it, and it is computed again.")
            return Parts(found, f"{name} {digest}") if len(found) > 1 else found[0]

        taps = tuple(column(f"tap{i}") for i in range(len(self.settings.taps)))
        made = [json.loads(text) for text in dict.fromkeys(part.built_with for part in known)]
        return FeatureBank(taps, column("logits"), torch.cat([columns["labels"] for columns in parts]), made)

    def _damage(self, wrong: Mapping[int, str]) -> str:
        """Name damaged parts for a user, with what is wrong with the first; empty where parts are only missing."""
        damaged = [part for part in wrong if wrong[part]]
        return f"{self._names(damaged)} damaged ({wrong[damaged[0]]})" if damaged else ""

    def _names(self, parts: Sequence[int]) -> str:
        """Name parts for a user, by the rows of the first three, from 1."""
        named = [(_file(part), self.parts[part]) for part in parts[:3]]
        names = ", ".join(f"{file} (images {rows.start + 1:,} to {rows.stop:,})" for file, rows in named)
        return names + (f" and {len(parts) - 3:,} more" if len(parts) > 3 else "")


def _file(part: int) -> str:
    return f"part-{part:05d}.safetensors"


def _text(made: Mapping[str, Any]) -> str:
    """What a part was computed on, as JSON."""
    return json.dumps(dict(made), sort_keys=True)
