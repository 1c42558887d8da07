"""Banks on disk: a folder of part files and a manifest.

A part is some rows of every column, in one safetensors file that holds its own checksum. One that is there and has it
is done; a damaged one is missing. A part is written whole or not at all, with the same bits whoever computes it: any
number of processes may fill a bank at once, die, and go on. `kvbench.features.fill` computes what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kvbench.core.bank import FeatureBank, Parts
from kvbench.features.bucket import Bucket
from kvbench.features.extract import check
from kvbench.features.spec import BankSettings
from kvbench.utils.environment import processors
from kvbench.utils.errors import UserError
from kvbench.utils.files import MANIFEST, json_digest, read_json, write_bytes

ROWS = 2048  # of a part, a multiple of a pass's batch; raise `kvbench.features.spec.FORMAT` with it
CHUNK = 2**20  # bytes read at a time, and of a header at most: that of a hundred taps has 10,000
BLANK = "0" * 64  # stands for a part's checksum while that is computed


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
    """One bank of a cache: its files, and what decides them.

    Args:
        settings: all that decides it.
        cache: the folder of all banks.
        name: begins the folder's name and every sentence about it.
        url: of a folder that fsspec reaches, to share the bank by; the cache has copies.
        verify: compare all checksums, also those of files that have not changed since that was last done.

    Example:
        >>> store = Store(settings, Path(".kvbench"), "mine-train")
        >>> fill([store], range(0, len(store.parts), 2), torch.device("cpu"))  # another machine fills the others
        >>> bank = open_bank(store, torch.device("cpu"))
    """

    settings: BankSettings
    cache: Path
    name: str
    url: str = ""
    verify: bool = False
    known: dict[int, Part] = field(default_factory=dict, init=False)  # the parts that are in order
    _columns: dict[int, dict[str, Tensor]] = field(default_factory=dict, init=False)  # theirs

    @cached_property
    def path(self) -> Path:
        """Its folder."""
        return self.settings.path(self.cache, self.name)

    def file(self, part: int) -> Path:
        """Where a part lies."""
        return self.path / f"part-{part:05d}.safetensors"

    @cached_property
    def bucket(self) -> Bucket | None:
        """Where it is shared."""
        return Bucket(f"{self.url.rstrip('/')}/{self.path.name}") if self.url else None

    @cached_property
    def checked(self) -> None:
        """Raises `UserError` where no pass can be made (`kvbench.features.extract.check`); looked for once."""
        check(self.settings)

    @cached_property
    def parts(self) -> list[range]:
        """The rows of each part."""
        rows = len(self.settings.images)
        return [range(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]

    @cached_property
    def recorded(self) -> dict[int, Part]:
        """The parts that the manifest knows; none where it is damaged or another bank's: all are read instead."""
        try:
            found = read_json(self.path / MANIFEST)
            intact = found.pop("sha256") == json_digest(found) and found["bank"] == self.settings.fingerprint
            made = [json.dumps(dict(one), sort_keys=True) for one in found["built_with"]]
            parts = [Part(str(sha256), made[k], int(size), int(at)) for sha256, k, size, at in found["parts"]]
        except (UserError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return {}
        return dict(enumerate(parts[: len(self.parts)])) if intact else {}

    def record(self) -> None:
        """Write a whole bank's manifest, where it is another now or the bucket has none, and that can be done."""
        known = [self.known[part] for part in range(len(self.parts))]
        made = list(dict.fromkeys(part.built_with for part in known))
        parts = [[part.sha256, made.index(part.built_with), part.size, part.mtime] for part in known]
        facts = {"bank": self.settings.fingerprint, "built_with": [json.loads(one) for one in made], "parts": parts}
        facts["sha256"] = json_digest(facts)
        with suppress(UserError, OSError):  # in a read-only folder all checksums are compared each time
            if self.known != self.recorded:
                write_bytes(self.path / MANIFEST, json.dumps(facts).encode())
            os.utime(self.path / MANIFEST)  # from which `kvbench cache` knows when the bank was last used
            if self.bucket and MANIFEST not in self.bucket.listed:
                self.bucket.put(MANIFEST, json.dumps(facts).encode())

    def look(self, parts: Iterable[int]) -> dict[int, str]:
        """Those of ``parts`` that are not in order, with what is wrong: an empty text where one is missing.

        Nothing is computed. Raises `UserError` where one cannot be read.
        """
        with ThreadPoolExecutor(min(8, processors())) as threads:  # hashing frees the interpreter
            found = threads.map(lambda part: (part, self._examine(part)), parts)
            return {part: why for part, why in found if why is not None}

    def _examine(self, part: int) -> str | None:
        """Take a part that is in order, here and in the bucket; else return what is wrong with it."""
        path, recorded = self.file(part), self.recorded.get(part)
        known = self.known.pop(part, None if self.verify else recorded)
        try:
            if self.bucket and not path.exists():
                self.bucket.fetch(path)
            stat = path.stat()
            at = stat.st_size, stat.st_mtime_ns
            if known is None or at != (known.size, known.mtime):
                known = Part(*self._checksum(part), *at)
            with safe_open(path, "pt") as file:
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            self._check(part, columns)
        except FileNotFoundError:
            return ""
        except (DamagedError, SafetensorError) as error:
            return str(error)
        except OSError as error:
            raise UserError(
                f"Cannot read {path}: {error.strerror or error}. Remove it, and it is computed again."
            ) from error
        self.known[part], self._columns[part] = known, columns
        if self.bucket and path.name not in self.bucket.listed:  # computed before there was one, or lost there
            self.bucket.put(path.name, path.read_bytes())
        return None

    def _checksum(self, part: int) -> tuple[str, str]:
        """Compare a part's checksum; returns it, and on what the part was computed. Raises `DamagedError`."""
        with self.file(part).open("rb") as file:  # a failing disk behind a map would end the process
            start = file.read(8)
            header = file.read(min(int.from_bytes(start, "little"), CHUNK))
            try:
                about = json.loads(json.loads(header)["__metadata__"]["kvbench"])
                made, sha256 = json.dumps(dict(about["built_with"]), sort_keys=True), str(about["sha256"])
                belongs = about["part of"]
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
        rows, numbers = (len(self.parts[part]),), self.settings.dtype
        wanted = {f"tap{i}": (numbers, 2, rows) for i in range(len(self.settings.taps))}
        wanted |= {"labels": (torch.int64, 1, rows), "logits": (numbers, 2, rows)}
        found = {name: (column.dtype, column.ndim, tuple(column.shape[:1])) for name, column in columns.items()}
        if found != wanted or columns["logits"].shape[1] != len(self.settings.images.classes):
            raise DamagedError("it has other columns, or other numbers of images or classes")

    def _belongs(self, part: int) -> str:
        """What a part says it is a part of."""
        return json_digest([self.settings.fingerprint, part])

    def write(self, part: int, columns: dict[str, Tensor], made: Mapping[str, Any]) -> None:
        """Write a part that was computed on ``made``, and its checksum into it. Raises `UserError` if it can't be."""
        about = {"part of": self._belongs(part), "built_with": made, "sha256": BLANK}
        # One text: safetensors writes several in any order.
        data = save(columns, {"kvbench": json.dumps(about, sort_keys=True)})
        data = data.replace(BLANK.encode(), hashlib.sha256(data).hexdigest().encode(), 1)
        write_bytes(self.file(part), data)
        if self.bucket:
            self.bucket.put(self.file(part).name, data)

    def bank(self) -> FeatureBank:
        """The bank, memory-mapped, of parts that are all in order. Raises `UserError` where they do not fit."""
        known, parts = zip(*((self.known[part], self._columns[part]) for part in range(len(self.parts))), strict=True)
        bits = json_digest([part.sha256 for part in known])

        def column(name: str) -> Tensor:
            found = [columns[name] for columns in parts]
            if len({one.shape[1] for one in found}) > 1:
                raise UserError(f"{self.path} has parts of unlike widths: remove it, and it is computed again.")
            return Parts(found, f"{name} {bits}") if len(found) > 1 else found[0]

        taps = tuple(column(f"tap{i}") for i in range(len(self.settings.taps)))
        made = [json.loads(text) for text in dict.fromkeys(part.built_with for part in known)]
        return FeatureBank(taps, column("logits"), torch.cat([columns["labels"] for columns in parts]), made)
