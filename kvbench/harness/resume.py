"""States of trainings that a session has not finished: kept in the cache, used by the same command again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from kvbench.harness import checkpoint as runstate
from kvbench.utils.errors import UserError
from kvbench.utils.locks import lock_on

if TYPE_CHECKING:
    from kvbench.core.trainer import Run, Training

FOLDER = "unfinished"  # in the cache
OLD = 14 * 24 * 3600.0  # seconds
WAIT = 1.0  # seconds: the workers of a killed session need a moment to end
SEED, REPLICATE = "seed", "replicate"


def digest(facts: Mapping[str, Any]) -> str:
    """Sixteen digits that name facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Place:
    """Where one training's states lie; locked, so that no other session uses them.

    Args:
        folder: for the states; the lock lies beside it.
        key: names all that decides the training's numbers.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self.lock = lock_on(folder.with_name(f"{folder.name}.lock"))
        self.trouble = ""  # why nothing is kept

    def occupy(self) -> bool:
        """Take the lock, which ends with this process; on failure `trouble` says why."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=WAIT)
        except Timeout:
            self.trouble = "another run on this cache is training it now"
        except OSError as error:
            self.trouble = f"{self.folder} cannot be written or locked ({error})"
        return self.lock.is_locked

    def attach(self, training: Training) -> None:
        """Restore a training's runs as far as their states go, and keep them after every epoch from now on."""
        for run in training.runs:
            self._restore(run, SEED, training)
        for run in training.replicates:
            self._restore(run, REPLICATE, training)
        training.reused = [run.epochs_done for run in training.runs]
        kinds = dict.fromkeys(training.runs, SEED) | dict.fromkeys(training.replicates, REPLICATE)

        def keep(run: Run) -> None:
            if self.trouble:
                return
            try:
                runstate.save(run, self._path(run, kinds[run]), self.key, training.epoch_seconds)
            except UserError as error:  # a training is worth more than its state
                self.trouble = str(error)
                training.notes.append(f"{training.configuration.id} is trained without keeping its state: {error}")

        training.keep = keep

    def _path(self, run: Run, kind: str) -> Path:
        return self.folder / f"{kind}-{run.seed}.safetensors"

    def _restore(self, run: Run, kind: str, training: Training) -> None:
        path = self._path(run, kind)
        if not path.exists():
            return
        try:
            seconds = runstate.restore(run, path, self.key)
        except UserError as error:
            path.unlink(missing_ok=True)
            training.notes.append(
                f"{error} It is removed, and {kind} {run.seed} of {run.configuration.id} starts over."
            )
        else:
            training.epoch_seconds = max(training.epoch_seconds, seconds, key=len)

    def discard(self) -> None:
        """Remove the states and go on holding the place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove the states and the lock, which must be held."""
        self.discard()
        with contextlib.suppress(OSError):
            Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()
        for folder in (self.folder.parent, self.folder.parent.parent):
            with contextlib.suppress(OSError):  # others' places are in it
                folder.rmdir()


class Suite:
    """All places of one suite.

    Args:
        cache: the folder of the cache.
        workload: its name.
        facts: all that decides the numbers of every training of the suite, JSON-serialisable.
    """

    def __init__(self, cache: Path, workload: str, facts: Mapping[str, Any]):
        self.root = cache / FOLDER
        self.facts = facts
        self.folder = self.root / f"{_plain(workload)}-{digest(facts)}"
        self.held: dict[str, Place] = {}  # by test
        remove_old(self.root)

    def place(self, training: Training, test: str) -> Place:
        """The place of a test's training."""
        own = {"test": test, "configuration": asdict(training.configuration), "timer": training.clock.name}
        name = f"{_plain(training.configuration.id)}-{digest(own)[:8]}"
        return Place(self.folder / name, digest({**self.facts, **own}))

    def attach(self, training: Training, test: str, *, fresh: bool = False) -> None:
        """Restore a training and keep its states, or note on it why that cannot be.

        Args:
            training: not begun.
            test: names the test that trains.
            fresh: remove what there is instead of restoring it.
        """
        again = self.held.get(test)  # its second try in this session
        place = again or self.place(training, test)
        if again is None and not place.occupy():
            training.notes.append(f"{training.configuration.id} is trained without keeping its state: {place.trouble}.")
            return
        self.held[test] = place
        if fresh or again:
            place.discard()
        place.attach(training)

    @property
    def kept(self) -> list[Path]:
        """The places of this session that hold states."""
        return [place.folder for place in self.held.values() if any(place.folder.glob("*.safetensors"))]

    def release(self) -> None:
        """Let other sessions use the states."""
        for place in self.held.values():
            place.lock.release()

    def clear(self) -> None:
        """Remove the states that this session holds."""
        for place in self.held.values():
            place.clear()
        self.held.clear()


def told(training: Training) -> list[str]:
    """What to say when a training begins: what is wrong with its state, what it reuses."""
    name, behind = training.configuration.id, min(run.epochs_done for run in training.everyone)
    if behind == training.configuration.recipe.epochs:
        return [*training.notes, f"{name} is reused, an interrupted run finished it."]
    return [*training.notes, *([f"{name} goes on at epoch {behind + 1}."] if any(training.reused) else [])]


def clear(folders: Iterable[Path]) -> None:
    """Remove the states in these places, but for those that another session holds."""
    for folder in folders:
        place = Place(folder, "")
        if folder.parent.is_dir() and place.occupy():
            place.clear()


def remove_old(root: Path) -> None:
    """Remove states that nobody has touched for `OLD` seconds; those of the future and those in use stay."""
    for lock in root.glob("*/*.lock"):
        folder = lock.with_suffix("")
        with contextlib.suppress(OSError):  # another session may remove it, too
            newest = max(path.stat().st_mtime for path in (lock, *folder.rglob("*")))
            if time.time() - newest > OLD:
                clear([folder])


def _plain(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.-]", "_", name)
