"""Passes that fill banks: what is missing of one or of several banks of the same images is computed and written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from kvbench.core.bank import FeatureBank
from kvbench.core.numerics import default_numerics
from kvbench.data.loader import batches_for
from kvbench.features import extract as extraction
from kvbench.features import store as storage
from kvbench.features.store import Store
from kvbench.utils.environment import built_with
from kvbench.utils.errors import UserError
from kvbench.utils.files import in_use, need_writable
from kvbench.utils.progress import OnProgress, Progress, ignore

logger = logging.getLogger(__name__)


@default_numerics()
def open_bank(
    store: Store, device: torch.device, on_progress: OnProgress = ignore, *, fresh: bool = False
) -> FeatureBank:
    """Open a bank, memory-mapped; what is missing or damaged is computed first, on a device, and the folder written to.

    ``fresh`` computes all of an incomplete bank, instead of going on with what there is.

    Raises:
        UserError: it cannot be read or written, or the pass fails.
    """
    if fill([store], range(len(store.parts)), device, on_progress, fresh=fresh) and (
        wrong := store.look(range(len(store.parts)))
    ):
        damage = _damage(store, wrong) or "a part is gone"
        raise UserError(f"{store.path} cannot be used right after it was computed: {damage}. Is the disk failing?")
    if changed := [part for part, one in store.recorded.items() if one.sha256 != store.known[part].sha256]:
        logger.warning("%s: %s: %s came out with other bits.", store.name, store.path, _named(store, changed))
    store.record()
    return store.bank()


@default_numerics()
def fill(
    stores: Sequence[Store],
    parts: Iterable[int],
    device: torch.device,
    on_progress: OnProgress = ignore,
    *,
    fresh: bool = False,
) -> bool:
    """Compute those of ``parts`` that are missing or damaged in banks of the same images: each image is read once.

    Safe to repeat, in any number of processes at once; a part is written as soon as it is whole, with the bytes that a
    pass for its bank alone gives.

    Args:
        stores: the banks; sentences name the first.
        parts: which of each.
        device: the teachers'.
        on_progress: called with the images done, after every batch.
        fresh: where one of them is missing, compute all.

    Returns:
        Whether anything was computed.

    Raises:
        UserError: a part cannot be read or written, or a pass fails.
    """
    asked, name = sorted(parts), stores[0].name
    work = [(store, dict.fromkeys(asked, "") if fresh else wrong) for store in stores if (wrong := store.look(asked))]
    if not work:
        return False
    for store, wrong in work:
        _check(store, wrong)
    rows = [row for part in asked if any(part in wrong for _, wrong in work) for row in stores[0].parts[part]]
    total = sum(len(stores[0].parts[part]) for part in asked)
    done, made = total - len(rows), built_with(device)
    if done:
        logger.info("%s: resuming after %s of %s images.", name, f"{done:,}", f"{total:,}")
        on_progress(Progress(f"{name}: teacher pass", done, total, "image"))
    with ExitStack() as stack:
        for store, _ in work:
            stack.enter_context(_writing(store.path))
        passes = [stack.enter_context(extraction.passing(store.settings, device)) for store, _ in work]
        waiting: list[list[extraction.Rows]] = [[] for _ in work]
        source = batches_for([store.settings.images for store, _ in work], extraction.BATCH, rows)
        for number, batch in enumerate(source):
            part = rows[number * extraction.BATCH] // storage.ROWS
            for (store, wrong), passed, held, images in zip(work, passes, waiting, batch, strict=True):
                if part not in wrong:
                    continue
                held.append({column: values.cpu() for column, values in passed(*images).items()})
                if len(held) == 1 and part == min(wrong):
                    _need_room(store, sum(len(store.parts[one]) for one in wrong), held[0])
                if sum(len(one["labels"]) for one in held) == len(store.parts[part]):
                    whole = {column: torch.cat([one.pop(column) for one in held]) for column in [*held[0]]}
                    store.write(part, whole, made)
                    held.clear()
            done += len(batch[0][1])
            on_progress(Progress(f"{name}: teacher pass", done, total, "image"))
    return True


def _check(store: Store, wrong: Mapping[int, str]) -> None:
    """Say what is damaged, and refuse what no pass can be made with, before anything is written."""
    damage = _damage(store, wrong)
    try:
        need_writable(store.path)
        if store.bucket:
            store.bucket.need_writable()
    except UserError as error:
        raise UserError(f"{store.path} cannot be used: {damage}. {error}" if damage else str(error)) from error
    if damage:
        logger.warning("%s: %s: %s; computed again.", store.name, store.path, damage)
    _ = store.checked


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A block that writes to a folder, in which nobody cleans up meanwhile; no empty folder of its making is left."""
    every = (folder.absolute(), *folder.absolute().parents)
    made = [one for one in every if not one.exists()]
    with suppress(OSError):  # what writes says so better
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with in_use(folder):
            yield
    finally:
        with suppress(OSError):  # it is not empty
            for one in made:
                one.rmdir()


def _need_room(store: Store, rows: int, some: extraction.Rows) -> None:
    """Raise `UserError` where there is no room for so many rows such as ``some``."""
    size = rows * sum(column[0].nbytes for column in some.values())
    if (free := shutil.disk_usage(store.path).free) < size:
        raise UserError(
            f"Cannot write {store.path}: it needs {size:,} bytes, and {free:,} are free. Make room, or choose another"
            " folder with --kvbench-cache."
        )


def _damage(store: Store, wrong: Mapping[int, str]) -> str:
    """Name damaged parts for a user, with what is wrong with the first; empty where parts are only missing."""
    damaged = [part for part in wrong if wrong[part]]
    return f"{_named(store, damaged)} damaged ({wrong[damaged[0]]})" if damaged else ""


def _named(store: Store, parts: Sequence[int]) -> str:
    """Name parts for a user, by the rows of the first three, from 1."""
    rows = [(store.file(part).name, store.parts[part]) for part in parts[:3]]
    names = ", ".join(f"{file} (images {one.start + 1:,} to {one.stop:,})" for file, one in rows)
    return names + (f" and {len(parts) - 3:,} more" if len(parts) > 3 else "")
