"""A configuration trained on feature banks with several seeds at once, epoch by epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from kvbench.core.bank import FeatureBank
from kvbench.core.contract import UNREPEATABLE, check_student, need_unchanged
from kvbench.core.interleave import interleave
from kvbench.core.numerics import RandomState, default_numerics
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.stacked import NotStackedError, Stack, stacks
from kvbench.utils.oom import enough_memory

LOG = logging.getLogger("kvbench")
MORE_MEMORY = "Train fewer seeds (--kvbench-seeds), smaller batches, or on another device (--kvbench-device)."


class Training:
    """A configuration trained with several seeds, all of them by one epoch at each call of `epoch`.

    Interleaved seeds are trained side by side on the CPU, as many as torch has threads, each on one thread: a step's
    matrices are too small to share, and a history then depends on no number of threads. On an accelerator, and where
    the student draws random numbers, one chunk of an epoch is trained at a time.

    Stacked seeds are trained as one model (`kvbench.core.stacked.Stack`), which an accelerator is not too large for.
    They begin with the same weights and orders, and are rounded otherwise. Students that cannot be stacked are
    interleaved, which is logged.

    Args:
        configuration: student and recipe.
        train, val: banks on the device to train on.
        seeds: any integers, at least one.
        replicates: further runs, trained alongside, whose rows are kept apart.
        stacked: whether seeds are trained as one model, where that is possible.

    Attributes:
        units: what is trained side by side, each on a thread: runs, or stacks of them.
        on_epoch: called with each run that has a new row in its history, in the thread that evaluated it.
        notes: what a reader of the numbers should know.
        reused: of each seed, how many epochs were restored from an earlier session.

    Raises:
        UserError: the student cannot be made or trained; names it.

    Example:
        >>> taps = torch.rand(64, 256), torch.rand(64, 512), torch.rand(64, 512)
        >>> bank = FeatureBank(taps, torch.rand(64, 10), torch.randint(10, (64,)))
        >>> linear = Student("linear", lambda widths, classes: SumOfHeads([torch.nn.Linear(widths[0], classes)]))
        >>> training = Training(Configuration(linear, Recipe(epochs=2)), bank, bank, seeds=[0, 1])
        >>> training.finish()
        >>> [(row["seed"], row["epoch"]) for row in training.history]
        [(0, 1), (0, 2), (1, 1), (1, 2)]
    """

    def __init__(
        self,
        configuration: Configuration,
        train: FeatureBank,
        val: FeatureBank,
        seeds: Sequence[int],
        replicates: Sequence[Run] = (),
        *,
        stacked: bool = False,
    ):
        spare = train.copy() if configuration.student.make_from else train  # whoever is given a bank may write into it
        trial, again = (Run(configuration, spare, val, seeds[0]) for _ in range(2))
        need_unchanged(configuration.student, spare, train)
        self.begin(configuration, [Run(configuration, train, val, seed) for seed in seeds], replicates)
        notes = check_student(trial, again, self.runs[0])
        need_unchanged(configuration.student, spare, train)
        for note in notes:
            self._note(note)
        first, *others = [run.random_state.torch[0] for run in self.runs]
        if any(torch.equal(first, other) for other in others):
            self._note(
                f"{configuration.student.name} sets torch's seed itself when it is made, so what it draws is the same"
                " for every seed"
            )
        for run in self.everyone:
            run.draws = self.runs[0].draws
        if stacked:
            self._stack()

    def begin(self, configuration: Configuration, runs: Sequence[Run], replicates: Sequence[Run]) -> None:
        """Set what every training has, before its first epoch."""
        self.configuration = configuration
        self.device = runs[0].device
        self.runs = list(runs)
        self.replicates = list(replicates)
        self.units: Sequence[Run | Stack] = self.everyone
        self.on_epoch: Callable[[Run], object] = lambda _: None
        self.reused = [0 for _ in self.runs]
        self.notes: list[str] = []

    def _stack(self) -> None:
        try:
            self.units = stacks(self.everyone)
        except NotStackedError as reason:
            LOG.info("%s is not stacked, its seeds are interleaved: %s.", self.configuration.student.name, reason)
        else:
            if len(self.units) > len({id(unit.train.logits) for unit in self.units}):
                most = max(len(unit.runs) for unit in self.units)
                LOG.info("%s is stacked by at most %d seeds, as memory allows.", self.configuration.id, most)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            LOG.warning("%s.", text)

    @property
    def everyone(self) -> list[Run]:
        """All runs, replicates last."""
        return [*self.runs, *self.replicates]

    @property
    def epochs_left(self) -> int:
        """How many epochs are not yet trained with every seed: of a training that was restored, fewer than all."""
        return self.configuration.recipe.epochs - min(run.epochs_done for run in self.everyone)

    def epoch(self) -> None:
        """Train one epoch of every seed, of those that are behind the others first; after the last, do nothing."""
        done = min(unit.epochs_done for unit in self.units)
        self._side_by_side(
            lambda unit: unit.chunks(), [unit for unit in self.units if unit.epochs_done == done and not unit.done]
        )

    def evaluate(self) -> None:
        """Append the history rows of the epoch just trained."""

        def evaluation(unit: Run | Stack) -> Iterator[None]:
            before = {run: len(run.history) for run in unit.runs}
            yield from unit.evaluation()
            for run, rows in before.items():
                if len(run.history) > rows:
                    self.on_epoch(run)

        self._side_by_side(evaluation, self.units)

    def _side_by_side(self, act: Callable[[Run | Stack], Iterator[None]], units: Sequence[Run | Stack]) -> None:
        """Let every unit ``act`` to its end."""
        draws = any(unit.draws for unit in units)
        # Global generators are for one seed at a time.
        workers = torch.get_num_threads() if self.device.type == "cpu" and not draws else 1
        before = RandomState(self.device)
        seeds = sum(len(unit.runs) for unit in units)
        with enough_memory(f"{self.configuration.id} with {seeds} seeds", MORE_MEMORY), default_numerics():
            interleave([act(unit) for unit in units], workers)
        if not draws and RandomState(self.device) != before:
            self._note(f"{self.configuration.student.name} draws random numbers in some of its steps: {UNREPEATABLE}")

    def finish(self) -> None:
        """Train and evaluate the epochs that are left."""
        self.evaluate()
        while self.epochs_left:
            self.epoch()
            self.evaluate()

    @property
    def history(self) -> list[dict[str, Any]]:
        """All seeds' rows, one an epoch, with the history frame's columns: losses in nat, shares, seconds."""
        return [row for run in self.runs for row in run.history]

    @property
    def replicate_history(self) -> list[dict[str, Any]]:
        """The replicates' rows, likewise."""
        return [row for run in self.replicates for row in run.history]
