"""The cache of banks: a complete bank is opened; any other is computed, resumed or repaired first."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kvbench.core.bank import FeatureBank
from kvbench.core.numerics import default_numerics
from kvbench.features import extract as extraction
from kvbench.features.partial import PartialBank, discard, shard_names
from kvbench.features.shards import NAMES, DamagedError, Filler, Layout, damaged, read_header, spans
from kvbench.features.spec import BankSettings
from kvbench.utils.environment import built_with
from kvbench.utils.errors import UserError
from kvbench.utils.files import need_writable
from kvbench.utils.locks import locked
from kvbench.utils.progress import OnProgress, Progress, ignore

logger = logging.getLogger(__name__)


class _OtherBitsError(Exception):
    """A shard came out otherwise than it was recorded."""


@dataclass(frozen=True)
class Entry:
    """One bank of a cache: where it lies, and what it is computed from.

    Args:
        settings: all that decides it.
        cache: the folder.
        name: begins the file's name and every sentence about it.
        device: the teacher's.
        on_progress: called with the images done, after every batch.
    """

    settings: BankSettings
    cache: Path
    name: str
    device: torch.device
    on_progress: OnProgress = ignore

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.settings.path(self.cache, self.name)

    def open(self, *, fresh: bool = False) -> FeatureBank:
        """Open the bank, memory-mapped; it is computed or repaired first where it must be, and the folder written to.

        ``fresh`` discards what an interrupted pass left, instead of resuming it.

        Raises:
            UserError: it was computed with other settings, cannot be read or written, or the pass fails.
        """
        opened, wrong = self._look()
        if opened is None:
            try:
                need_writable(self.cache)  # before the pass, not after it
            except UserError as error:
                raise UserError(f"{self.path} cannot be used: {wrong}. {error}" if wrong else str(error)) from error
            extraction.check(self.settings)
            with _written(self.path):
                self.cache.mkdir(parents=True, exist_ok=True)
                with locked(self.path.with_suffix(".lock"), self.name):
                    opened = self._look()[0]  # whoever held the lock may have computed it
                    if opened is None:
                        self._repair(fresh)
                        opened, wrong = self._look()
        if opened is None:
            raise UserError(f"{self.path} cannot be used right after it was computed: {wrong}. Is the disk failing?")
        return opened

    def _look(self) -> tuple[FeatureBank | None, str]:
        """Open the bank if it is complete; else return what is wrong (an empty text where there is none)."""
        try:
            with _reading(self.path) as fd:
                layout, digests = self._header(fd)
                invalid = damaged(fd, layout, dict(enumerate(digests)))
            if invalid:
                return None, f"{shard_names(layout, invalid)} is damaged"
            with suppress(OSError):  # a process that died after its last step
                self.path.with_suffix(".journal").unlink(missing_ok=True)
            with safe_open(self.path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except (DamagedError, SafetensorError) as error:
            return None, f"it is not a complete bank ({error})"
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"Cannot read {self.path}: {why}. Remove it, and it is computed again.") from error
        taps = tuple(tensors[f"tap{i}"] for i in range(len(self.settings.taps)))
        return FeatureBank(taps, tensors["logits"], tensors["labels"], json.loads(layout.built_with)), ""

    def _header(self, fd: int) -> tuple[Layout, list[str]]:
        """Read an open bank's header; raises `DamagedError` where it is none of these settings' columns."""
        layout, digests = read_header(fd)
        recorded, wanted = json.loads(layout.fingerprint), self.settings.fingerprint
        differing = [key for key in sorted({*recorded, *wanted}) if recorded.get(key) != wanted.get(key)]
        if differing:
            raise UserError(
                f"{self.path} was computed with other settings ({', '.join(differing)}): remove it, and it is computed"
                " again."
            )
        dtype = NAMES[self.settings.dtype]
        names = [f"tap{i}" for i in range(len(self.settings.taps))]
        found = [(one.name, one.dtype, len(one.shape)) for one in layout.columns]
        if found != [("labels", "I64", 0), *((name, dtype, 1) for name in (*names, "logits"))]:
            raise DamagedError("it has other columns")
        if layout.rows != len(self.settings.images) or layout.columns[-1].shape != (len(self.settings.images.classes),):
            raise DamagedError("it has other numbers of images or classes")
        return layout, digests

    def _repair(self, fresh: bool) -> None:
        """Compute the damaged shards alone where all else is in order, else the complete bank."""
        if self.path.exists():
            try:
                self._repair_shards()
                return
            except _OtherBitsError:
                logger.warning("%s: another machine or version wrote %s; it is computed again.", self.name, self.path)
            except DamagedError as error:
                logger.warning("%s: %s is not a complete bank (%s); it is computed again.", self.name, self.path, error)
            self.path.unlink()
        self._compute(fresh)

    def _repair_shards(self) -> None:
        """Compute damaged shards again, in place: whoever has the bank open sees the same bits as before the damage."""
        fd = os.open(self.path, os.O_RDWR)
        try:
            layout, digests = self._header(fd)
            invalid = damaged(fd, layout, dict(enumerate(digests)))
            logger.warning("%s: %s: %s damaged; computed again.", self.name, self.path, shard_names(layout, invalid))

            def compare(shard: int, digest: str) -> None:
                if digest != digests[shard]:
                    raise _OtherBitsError

            self._fill(invalid, lambda _: Filler(fd, layout, invalid, compare))
        finally:
            os.close(fd)

    def _compute(self, fresh: bool) -> None:
        """Compute the bank, resuming what an interrupted pass left unless ``fresh``."""
        computed_with = json.dumps(built_with(self.device), sort_keys=True)
        rows = len(self.settings.images)
        fingerprint = json.dumps(self.settings.fingerprint, sort_keys=True)
        missing = [*range(len(spans(rows)))]
        partial = None if fresh else PartialBank.find(self.path, fingerprint, computed_with, rows)
        if partial is None:
            if discard(self.path) and not fresh:
                logger.info("%s: what an interrupted pass left cannot be resumed here; starting over.", self.name)
        else:
            invalid = partial.discard_damaged()
            missing = partial.missing
            if invalid:
                names = shard_names(partial.layout, invalid)
                logger.warning("%s: unfinished, %s damaged; computed again.", self.name, names)
            if partial.done:
                logger.info("%s: resuming after %s of %s images.", self.name, f"{partial.done:,}", f"{rows:,}")

        def filler(batch: extraction.Rows) -> Filler:
            nonlocal partial
            partial = partial or PartialBank.begin(self.path, Layout.of(fingerprint, computed_with, rows, batch))
            return partial.filler()

        try:
            self._fill(missing, filler)
            assert partial is not None, "there are images"
            partial.finish()
        finally:
            if partial is not None:
                partial.close()

    def _fill(self, missing: Sequence[int], filler: Callable[[extraction.Rows], Filler]) -> None:
        """Pass the images of the ``missing`` shards through the teacher; ``filler`` is called with the first batch."""
        if not missing:
            return
        shards = spans(len(self.settings.images))
        rows = [row for shard in missing for row in shards[shard]]
        done = len(self.settings.images) - len(rows)
        if done:
            self._report(done)
        filling: Filler | None = None
        for batch in extraction.extract(self.settings, self.device, rows):
            filling = filling or filler(batch)
            filling.add(batch)
            done += len(batch["labels"])
            self._report(done)

    def _report(self, done: int) -> None:
        total = len(self.settings.images)
        self.on_progress(Progress(f"{self.name}: teacher pass", done, total, "image"))


@default_numerics()
def open_bank(
    settings: BankSettings,
    cache: Path,
    name: str,
    device: torch.device,
    on_progress: OnProgress = ignore,
    *,
    fresh: bool = False,
) -> FeatureBank:
    """Open the bank of ``settings`` in ``cache``, computed or repaired first where it must be; see `Entry.open`."""
    return Entry(settings, cache, name, device, on_progress).open(fresh=fresh)


@contextmanager
def _reading(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raise a sentence where a bank cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    except DamagedError as error:  # the teacher's output changed its shape during the pass
        raise UserError(f"Cannot write {path}: {error}. Start over with --kvbench-fresh.") from error
