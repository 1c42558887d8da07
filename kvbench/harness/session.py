"""A benchmark session: what the pytest plugin knows, apart from pytest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.core.recipe import SCHEDULED, Configuration, configurations
from kvbench.harness.collector import Collector
from kvbench.harness.options import command
from kvbench.studies.kv_memory import DESIGN
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.files import need_writable

if TYPE_CHECKING:
    from kvbench.core.trainer import Run, Training
    from kvbench.harness.record import Record
    from kvbench.harness.resume import Suite
    from kvbench.harness.setup import Banks, Settings
    from kvbench.utils.progress import Progress, ProgressBar
    from kvbench.workloads import Workload

REPLICATES = 6  # seeds that an update trains a second time, on banks rounded otherwise


class Session:
    """Opens the banks and trains; what comes of it goes to the `Collector`.

    Args:
        texts: every option as it was given, by its name in `kvbench.harness.options.OPTIONS`.
        values: what they were parsed to; paths with the directories that they are relative to.
        progress: where to show it.
        update: write references instead of comparing with them.
        fresh: use nothing that an interrupted session left.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        values: Mapping[str, Any],
        progress: ProgressBar,
        *,
        update: bool = False,
        fresh: bool = False,
    ):
        self.values, self.progress, self.fresh = values, progress, fresh
        self.workload: Workload = values["workload"]
        self.seeds: tuple[int, ...] = values["seeds"] or tuple(range(self.workload.seeds))
        self.report_path: Path = values["report"] or values["cache"] / f"report-{self.workload.name}.md"
        self.collector = Collector(
            self.workload.name,
            DESIGN,
            self.seeds,
            values["expected"],
            command(texts),
            command(texts, paths=False),
            self.names,
            update=update,
        )
        self.trainings_ahead = 0
        self.test_folders: set[Path] = set()  # whose code is part of what is trained
        self.stopped = ""  # by what, from outside
        self.opened_suite: Suite | None = None  # of this process, once something is trained
        self._epochs_done = 0
        self._showing = threading.Lock()  # seeds end their epochs in threads of their own

    @property
    def finding_ids(self) -> list[str]:
        """The findings that tests are made for."""
        return list(DESIGN.findings)

    def configurations(self) -> list[Configuration]:
        """Every student with both recipes, at this workload's scale."""
        from kvbench.core.models import STUDENTS

        return configurations(list(STUDENTS), self.workload.recipe)

    def need_names(self) -> None:
        """Raise `UserError` where students are called so that tests and results cannot be told apart by name."""
        from kvbench.core.models import STUDENTS

        for name in STUDENTS:
            if not (name.strip() and name.isprintable()):
                raise UserError(f"A student is called {name!r}; valid is a name of printable characters.")
        counts = Counter([*self.names(), *DESIGN.findings])
        if twice := [name for name, count in counts.items() if count > 1]:
            raise UserError(
                f"{twice[0]} is the name of two configurations, or of a configuration and a finding: give the student"
                f" another name. The scheduled configurations are called {SCHEDULED} and their student's name."
            )

    def names(self) -> list[str]:
        """The configurations' ids."""
        return [row.id for row in self.configurations()]

    @cached_property
    def settings(self) -> Settings:
        """What decides the banks."""
        from kvbench.harness.setup import Settings

        return Settings.of(self.values, fresh=self.fresh)

    @cached_property
    def banks(self) -> Banks:
        """Both splits' banks, made where the cache lacks them."""
        try:
            need_writable(self.report_path.parent)  # before training, not after it
        except UserError as error:
            raise UserError(f"{error} Name a file for the tables with --kvbench-report.") from None
        banks = self.settings.open_banks(self._show)
        with best_effort("remove the progress bar"):
            self.progress.close()
        return banks

    @property
    def _replicates(self) -> tuple[int, ...]:
        """Seeds that are trained a second time."""
        return self.seeds[:REPLICATES] if self.collector.update else ()

    @cached_property
    def suite(self) -> Suite:
        """Where the states of this suite's trainings are kept until it is through."""
        from kvbench.harness.record import decisive
        from kvbench.harness.resume import Suite
        from kvbench.utils.environment import code

        facts = decisive(self.workload, self.banks, self.seeds, len(self._replicates), code(self.test_folders))
        self.opened_suite = Suite(self.values["cache"], self.workload.name, facts)
        return self.opened_suite

    def training(self, configuration: Configuration, test: str) -> Training:
        """Make a configuration's training with all seeds, and with replicates where references are updated.

        It goes on where an interrupted session left the same ``test``.
        """
        from kvbench.core.trainer import MORE_MEMORY, Run, Training
        from kvbench.utils.oom import enough_memory

        banks, suite = self.banks, None
        with best_effort("keep the states of unfinished trainings"):
            suite = self.suite
        with enough_memory(f"{configuration.id} with {len(self.seeds)} seeds", MORE_MEMORY):
            replicates = [Run(configuration, *banks.perturbed, seed) for seed in self._replicates]
            training = Training(configuration, banks.train, banks.val, self.seeds, replicates)
        states = suite.states(training, test, fresh=self.fresh) if suite is not None else None
        self._epochs_done += sum(run.epochs_done for run in training.everyone)

        def on_epoch(run: Run) -> None:
            if states is not None:
                with best_effort(f"keep the state of {configuration.id}"):
                    states.save(run)
            with self._showing:
                self._show_epoch(run)

        training.on_epoch = on_epoch
        return training

    def _show(self, progress: Progress) -> None:
        with best_effort("show the progress"):
            self.progress.show(progress)

    def _show_epoch(self, run: Run) -> None:
        from kvbench.utils.progress import Progress

        epochs = run.configuration.recipe.epochs
        total = max(1, self.trainings_ahead) * (len(self.seeds) + len(self._replicates)) * epochs
        self._epochs_done += 1
        text = f"{run.configuration.id} seed {run.seed} epoch {run.epochs_done}/{epochs}"
        self._show(Progress(text, min(self._epochs_done, total), total, "epoch"))

    def record(self, training: Training) -> Record:
        """What a training leaves for a saved benchmark: enough to make every table again."""
        from kvbench.harness.record import record

        return record(training, self.workload, self.banks, self.seeds)
