"""A benchmark session: what the pytest plugin knows, apart from pytest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.harness.collector import Collector
from kvbench.harness.options import command
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.files import need_writable

if TYPE_CHECKING:
    from kvbench.core.recipe import Configuration
    from kvbench.core.trainer import Training
    from kvbench.harness.epochs import Epochs
    from kvbench.harness.kept import Kept
    from kvbench.harness.record import Record
    from kvbench.harness.resume import Suite
    from kvbench.harness.setup import Banks, Settings
    from kvbench.studies.experiment import Experiment
    from kvbench.utils.progress import Progress, ProgressBar
    from kvbench.utils.shares import Share

TRAININGS = "trainings"  # in the cache, the results of tasks
REPLICATES = 6  # seeds that an update trains a second time, on banks rounded otherwise


class Session:
    """Opens the banks and trains; what comes of it goes to the `Collector`.

    Args:
        texts: every option as it was given, by its name in `kvbench.harness.options.OPTIONS`.
        values: what they were parsed to; paths with the directories that they are relative to.
        experiment: what they choose.
        progress: where to show it.
        update: write references instead of comparing with them.
        fresh: use nothing that an interrupted session left.
        verify: read banks whole before they are used.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        values: Mapping[str, Any],
        experiment: Experiment,
        progress: ProgressBar,
        *,
        update: bool = False,
        fresh: bool = False,
        verify: bool = False,
    ):
        self.values, self.experiment, self.progress = values, experiment, progress
        self.fresh, self.verify = fresh, verify
        self.seeds: tuple[int, ...] = values["seeds"] or tuple(range(experiment.images.seeds))
        self.report_path: Path = values["report"] or values["cache"] / f"report-{self.title}.md"
        self.html_path: Path | None = values["html"]
        self.collector = Collector(
            experiment.name,
            experiment.design,
            self.seeds,
            values["expected"] / experiment.study.references,
            command(texts),
            command(texts, paths=False),
            update=update,
        )
        self.trainings_ahead = 0
        self.rows: list[Configuration] = []  # what tests train
        self.texts = texts
        self.engine: Callable[..., list[str]] | None = None  # does tasks elsewhere: `kvbench.harness.engine.run`
        self.test_folders: set[Path] = set()  # whose code is part of what is trained
        self.share: Share | None = None  # of the banks, where other processes compute the rest
        self.stopped = ""  # by what, from outside
        self.opened_suite: Suite | None = None  # of this process, once something is trained

    @property
    def title(self) -> str:
        """The study and what it is run on, for a heading and a file's name."""
        return self.experiment.title

    @cached_property
    def settings(self) -> Settings:
        """What decides the banks."""
        from kvbench.harness.setup import Settings

        return Settings.of(self.values, self.experiment.images, fresh=self.fresh, verify=self.verify)

    @cached_property
    def banks(self) -> Banks | None:
        """Both splits' banks, made where the cache lacks them; None for a study that trains without a teacher."""
        try:
            need_writable(self.report_path.parent)  # before training, not after it
            need_writable((self.html_path or self.report_path).parent)
        except UserError as error:
            raise UserError(f"{error} Name other files with --kvbench-report and --kvbench-html.") from None
        if self.experiment.study.train is not None:
            return None
        self._do_on_cluster()
        banks = self.settings.open_banks(self._show, self.share)
        with best_effort("remove the progress bar"):
            self.progress.close()
        return banks

    @property
    def stacked(self) -> bool:
        """Whether the seeds of a configuration are trained as one model, where that is possible."""
        from kvbench.harness.setup import stacks_seeds

        return stacks_seeds(self.values["strategy"], self.settings.device)

    @property
    def _replicates(self) -> tuple[int, ...]:
        """Seeds that are trained a second time."""
        return self.seeds[:REPLICATES] if self.collector.update else ()

    @cached_property
    def suite(self) -> Suite:
        """Where the states of this suite's trainings are kept until it is through."""
        from kvbench.harness.resume import Suite

        self.opened_suite = Suite(self.values["cache"], self.title, self.suite_facts)
        return self.opened_suite

    @property
    def suite_facts(self) -> dict[str, Any]:
        """All that decides the numbers of the suite's trainings."""
        from kvbench.harness.record import made_from

        asked = {"seeds": list(self.seeds), "replicates": len(self._replicates)}
        return {**made_from(self.experiment, self.banks), **self.surroundings, **asked}

    def training(self, configuration: Configuration, test: str) -> Training:
        """Make a configuration's training with all seeds, and with replicates where references are updated.

        It goes on where an interrupted session left the same ``test``, and seeds that tasks trained are not trained
        again.
        """
        from kvbench.core.trainer import MORE_MEMORY
        from kvbench.harness.setup import begin
        from kvbench.utils.oom import enough_memory

        if self.banks is None:
            self._do_on_cluster()
        suite = None
        with best_effort("keep the states of unfinished trainings"):
            suite = self.suite
        with enough_memory(f"{configuration.id} with {len(self.seeds)} seeds", MORE_MEMORY):
            study, device = self.experiment.study, self.settings.device
            training = begin(
                study, configuration, self.banks, self.seeds, device, self._replicates, stacked=self.stacked
            )
        with best_effort(f"use what was trained of {configuration.id}"):
            self._reuse(training)
        states = suite.states(training, test, fresh=self.fresh) if suite is not None else None
        self._epochs.done += sum(run.epochs_done for run in training.everyone)
        runs = max(1, self.trainings_ahead) * len(training.everyone)
        self._epochs.total = runs * configuration.recipe.epochs
        self._epochs.follow(training, states)
        return training

    @cached_property
    def _epochs(self) -> Epochs:
        from kvbench.harness.epochs import Epochs

        return Epochs(0, self.progress.show)

    def _do_on_cluster(self) -> None:
        """Let the workers of a cluster do what tests are going to need, once, where one was chosen."""
        if self.engine is None:
            return
        from kvbench.harness.options import OF_TRAINING, OPTIONS

        given = [row for row in OPTIONS if row.decides_banks or row.name in OF_TRAINING]
        given = [row for row in given if self.texts[row.name] != row.default]
        texts = {row.name: str(self.values[row.name]) if row.path else self.texts[row.name] for row in given}
        command, names = "train" if self.rows else "extract", [row.id for row in self.rows]
        for problem in self.engine(command, [texts], names, self._show):
            logging.getLogger(__name__).warning("%s", problem)  # its test tells it, too
        self.engine = None

    def _reuse(self, training: Training) -> None:
        """Put runs that tasks have trained to their end, in other processes, to it."""
        kept = self.kept(training.configuration)
        if self.fresh:
            kept.clear()
        found = kept.read()
        for run in training.runs:
            rows = found.get(run.seed)
            if isinstance(rows, list):  # what diverged is told where it diverges again
                run.history, run.epochs_done = rows, training.configuration.recipe.epochs

    def kept(self, configuration: Configuration) -> Kept:
        """Where the results of a configuration's tasks are kept, whatever else a session asks for."""
        from kvbench.harness.kept import Kept
        from kvbench.harness.resume import plain

        return Kept(self.values["cache"] / TRAININGS / plain(self.title), configuration, self.surroundings)

    @cached_property
    def surroundings(self) -> dict[str, Any]:
        """What decides the numbers of a task beside configuration and seed."""
        from kvbench.harness.record import surroundings
        from kvbench.utils.environment import code

        found = surroundings(self.banks, self.settings.device, code(self.test_folders), stacked=self.stacked)
        return {"study": self.experiment.study.name, **found}

    def _show(self, progress: Progress) -> None:
        with best_effort("show the progress"):
            self.progress.show(progress)

    def record(self, training: Training) -> Record:
        """What a training leaves for a saved benchmark: enough to make every table again."""
        from kvbench.harness.record import record

        return record(training, self.experiment, self.banks, self.seeds)
