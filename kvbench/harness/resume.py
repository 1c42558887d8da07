"""States of trainings that a session has not finished: kept in the cache, used by the same command again.

Nothing is locked. Under one key all sessions compute the same bits, and a file of a state is there complete or not at
all, so sessions at the same time may write and read the same states.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.core.custom import CustomRun
from kvbench.harness import checkpoint
from kvbench.utils.errors import UserError
from kvbench.utils.files import json_digest

if TYPE_CHECKING:
    from kvbench.core.recipe import Configuration
    from kvbench.core.run import Run
    from kvbench.core.trainer import Training

LOG = logging.getLogger(__name__)
DIRECTORY = "checkpoints"  # in the cache
OLD = 14 * 24 * 3600.0  # seconds


def digest(facts: Mapping[str, Any]) -> str:
    """Sixteen digits that name facts."""
    return json_digest(facts)[:16]


def facts_of(row: Configuration) -> dict[str, Any]:
    """What of a configuration decides its numbers, apart from the student's code."""
    return {"configuration": row.id, "taps": row.student.taps, "recipe": row.recipe.facts}


def directory_of(cache: Path, workload: str, facts: Mapping[str, Any]) -> Path:
    """Where the states of a suite lie."""
    return cache / DIRECTORY / f"{plain(workload)}-{digest(facts)}"


class States:
    """The states of one training, a file for each run.

    Args:
        directory: where they lie.
        key: names all that decides the training's numbers.
        training: not begun.
    """

    def __init__(self, directory: Path, key: str, training: Training):
        self.directory, self.key, self.training = directory, key, training
        self.paths = {
            run: directory / f"{kind}-{run.seed}.safetensors"
            for kind, runs in (("seed", training.runs), ("replicate", training.replicates))
            for run in runs
        }
        self._kept = True

    def restore(self) -> None:
        """Put the runs into their states, as far as there are any, and say what is reused."""
        name = self.training.configuration.id
        for run, path in self.paths.items():
            if run.done or not path.exists():
                continue
            try:
                checkpoint.restore(run, path, self.key)
            except UserError as error:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                self._note(f"{error} It is removed, and {path.stem.replace('-', ' ')} of {name} starts over.")
        self.training.reused = [run.epochs_done for run in self.training.runs]
        if not self.training.epochs_left:
            LOG.info("%s is reused, an earlier run finished it.", name)
        elif any(self.training.reused):
            run = min(self.training.everyone, key=lambda run: run.epochs_done)
            place = f"at epoch {run.epochs_done + 1}" if run.epochs_done else f"with seed {run.seed}"
            LOG.info("%s goes on %s.", name, place)

    def save(self, run: Run) -> None:
        """Write the state of a run whose latest epoch has been evaluated; once that fails, no longer."""
        if self._kept and (run.done or not isinstance(run, CustomRun)):  # nobody knows a custom loop's own state
            try:
                checkpoint.save(run, self.paths[run], self.key)
            except UserError as error:  # a training is worth more than its state
                self._kept = False
                self._note(f"{self.training.configuration.id} is trained without keeping its state: {error}")

    def remove(self) -> None:
        """Remove these states; those of other seeds, which other processes may train, stay."""
        for path in self.paths.values():
            path.unlink(missing_ok=True)
        for above in (self.directory, *self.directory.parents[:2]):
            with contextlib.suppress(OSError):  # others' states are in it
                above.rmdir()

    def _note(self, text: str) -> None:
        self.training.notes.append(text)
        LOG.warning("%s", text)


class Suite:
    """The states of one suite's trainings.

    Args:
        cache: the cache's directory.
        workload: its name.
        facts: all that decides the numbers of every training of the suite, JSON-serialisable.
    """

    def __init__(self, cache: Path, workload: str, facts: Mapping[str, Any]):
        self.facts = facts
        self.directory = directory_of(cache, workload, facts)
        self.used: set[Path] = set()  # by trainings of this session
        remove_old(cache / DIRECTORY)

    def states(self, training: Training, test: str, *, fresh: bool = False) -> States:
        """The states of a test's training, restored.

        Args:
            training: not begun.
            test: names the test that trains; what it left earlier in this session is removed, not restored.
            fresh: remove what other sessions left, too.
        """
        own = {"test": test, **facts_of(training.configuration)}
        directory = self.directory / f"{plain(training.configuration.id)}-{digest(own)[:8]}"
        if fresh or directory in self.used:
            clear([directory])
        self.used.add(directory)
        states = States(directory, digest({**self.facts, **own}), training)
        states.restore()
        return states

    @property
    def kept(self) -> list[Path]:
        """The directories that hold states of this session's trainings."""
        return sorted(directory for directory in self.used if any(directory.glob("*.safetensors")))


def clear(directories: Iterable[Path]) -> None:
    """Remove the states in these directories, and the directories above that are empty then."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
        for above in (directory.parent, directory.parent.parent):
            with contextlib.suppress(OSError):  # others' states are in it
                above.rmdir()


def remove_old(root: Path) -> None:
    """Remove states that nobody has touched for `OLD` seconds; those of the future stay."""
    for directory in root.glob("*/*"):
        with contextlib.suppress(OSError):  # another session may remove it, too
            newest = max(path.stat().st_mtime for path in (directory, *directory.rglob("*")))
            if time.time() - newest > OLD:
                directory.unlink() if directory.is_file() else clear([directory])


def plain(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.-]", "_", name)
