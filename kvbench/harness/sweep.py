"""Sweeps: a grid is trained cell by cell, what is complete is kept, and each cell is judged as a run.

A complete training lies in a file of its own in the cache, keyed by all that decides its numbers, seed by seed: a sweep
with more values or more seeds trains what is new, and cells in which a training is the same share it. What is not
complete goes on from its states, as in a session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvbench.core.recipe import Configuration
from kvbench.harness.epochs import Epochs
from kvbench.harness.kept import Kept, Rows, keeps
from kvbench.harness.options import OF_TRAINING, OPTIONS
from kvbench.harness.projects import FOLDER
from kvbench.harness.record import cost_of, surroundings
from kvbench.harness.resume import Suite, plain
from kvbench.harness.setup import Banks, Settings, resolve_device, stacks_seeds
from kvbench.harness.tasks import train
from kvbench.reporting.maps import Judged, Sweep
from kvbench.results import history
from kvbench.studies.grid import Cell, Grid
from kvbench.utils.environment import code, environment
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import need_writable
from kvbench.utils.progress import OnProgress, ignore

if TYPE_CHECKING:
    import pandas as pd

    from kvbench.findings.finding import Finding
    from kvbench.utils.shares import Share
    from kvbench.workloads import Workload

LOG = logging.getLogger(__name__)
DIRECTORY = "sweeps"  # in the cache


def sweep(
    grid: Grid,
    seeds: int | Sequence[int] = 0,
    findings: Sequence[str] = (),
    on_progress: OnProgress = ignore,
    **options: Any,
) -> Sweep:
    """Train every cell of a grid, and judge each as a run.

    What is complete is kept in ``cache`` and not trained again; an interrupted sweep goes on where it was. A cell that
    cannot be trained or judged is one with a sentence, unless no cell has a result.

    Args:
        grid: the cells.
        seeds: how many, counted from 0, or which; 0: the workload's own number.
        findings: ids of those to judge, training only what they need; empty: all of the study.
        on_progress: is told of epochs that are done.
        options: what decides banks and how seeds are trained, as options of a test run without ``--kvbench-``:
            ``cache`` and ``root`` (paths), ``device``, ``pooling``, ``taps`` (a tuple) and so on.

    Returns:
        The maps: ``markdown()``, and the frames ``verdicts`` and ``histories``.

    Raises:
        UserError: an option makes no sense, there is no such finding, or no cell has a result.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> def train(configuration, seed, device):
        ...     steep = {"plain": 1.0, "momentum": 10 * configuration.recipe.lr}[configuration.student.name]
        ...     for epoch in range(configuration.recipe.epochs):
        ...         yield {"train_loss": 2 - steep * epoch + seed / 100, "val_accuracy": 0.5}
        >>> faster = Finding("momentum-helps", "momentum helps", below("momentum", "plain", "train_loss"))
        >>> students = Student("plain"), Student("momentum")
        >>> study = Study("mine", "Momentum", students, (Recipe(epochs=2),), (faster,), train=train)
        >>> grid = Grid(study, Workload.without_images("mine"), {"lr": (0.05, 0.15)})
        >>> with TemporaryDirectory() as cache:
        ...     swept = sweep(grid, seeds=8, cache=Path(cache), device="cpu")
        >>> [str(cell.judgements[0].verdict) for cell in swept.cells]
        ['fails', 'holds']
    """
    taken = [row for row in OPTIONS if row.decides_banks or row.name in OF_TRAINING]
    valid = {row.name: row for row in taken if row.name not in {"study", "workload", "set", "seeds"}}
    for name in options:
        if name not in valid:
            raise unknown("option of a sweep", name, valid)
    values = {name: row.parse(row.default) for name, row in valid.items()} | options
    work = plan(grid, seeds, findings, on_progress, values)
    design, numbers, chosen = grid.study.design, work.seeds, work.findings
    need_writable(values["cache"])
    try:
        trained = work.cells()
    except (KeyboardInterrupt, SystemExit):
        kept = f"{work.complete} of {len(work.tasks)} trainings are complete, in {work.directory}"
        LOG.info("Stopped: %s.", f"{kept}; the same command goes on" if work.keeps else "nothing was kept")
        raise
    if all(one.histories.empty for one in trained):
        problem = next(sentence for one in trained for sentence in one.problems.values())
        raise UserError(f"No cell has a result. {problem}")
    judged = tuple(
        Judged.of(cell, one.histories, one.problems, design, chosen, one.costs, len(grid.cells))
        for cell, one in zip(grid.cells, trained, strict=True)
    )
    here = environment(work.device)
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("kvbench", "torch", "python"))
    facts = {"hardware": here["hardware"], "versions": versions, "date": here["date"], **work.facts}
    return Sweep(grid, numbers, chosen, judged, facts)


def plan(
    grid: Grid,
    seeds: int | Sequence[int],
    findings: Sequence[str],
    on_progress: OnProgress,
    values: Mapping[str, Any],
) -> Work:
    """What is to be trained for a grid, and for which findings; see `sweep`.

    ``values`` are those of all options that decide banks.
    """
    design = grid.study.design
    first = next(cell.experiment for cell in grid.cells if cell.experiment)
    numbers = tuple(range(seeds or first.images.seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or min(numbers) < 0 or len({*numbers}) < len(numbers):
        raise UserError(f"A sweep with the seeds {list(numbers)}: valid are one or more, from 0, each once.")
    chosen = tuple(row for row in design.findings.values() if not findings or row.id in findings)
    for name in findings:
        design.finding(name)  # which refuses one that is not there
    if not chosen:
        raise UserError(f"The study {grid.study.name} has no findings: there is nothing to map.")
    return Work(grid, numbers, chosen, values, on_progress)


class Trained(NamedTuple):
    """What training a cell came to; problems and FLOPs by configuration."""

    histories: pd.DataFrame
    problems: dict[str, str]
    costs: dict[str, float]

    @classmethod
    def failed(cls, problem: str) -> Trained:
        """Nothing, for one reason."""
        return cls(history.frame([]), {"": problem}, {})


@dataclass
class Work:
    """A sweep under way."""

    grid: Grid
    seeds: tuple[int, ...]
    findings: tuple[Finding, ...]
    values: Mapping[str, Any]
    on_progress: OnProgress
    complete: int = 0  # trainings that came to their end
    facts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.values["device"])
        self.stacked = stacks_seeds(self.values["strategy"], self.device)
        self.directory: Path = self.values["cache"] / DIRECTORY / plain(self.title)
        self.keeps = keeps(self.grid.study)
        if not self.keeps:
            LOG.warning("The code of %s is in no file, so nothing of the sweep is kept.", self.grid.study.name)
        design = self.grid.study.design
        self._needed = {name for row in self.findings for names in design.needs(row).values() for name in names}
        self._opened: tuple[int, Banks | None, Suite] | None = None  # of the group that a task was of
        self.code = code({path for path in [Path(FOLDER)] if path.is_dir()})
        self._clock = _Clock()
        self._said: set[str] = set()

    @property
    def title(self) -> str:
        """What folders of this study and workload are called."""
        return f"{self.grid.study.name}-{self.grid.workload.name}"

    @cached_property
    def groups(self) -> list[tuple[Workload, list[int]]]:
        """Numbers of cells that share their banks."""
        groups: list[tuple[Workload, list[int]]] = []
        for number, cell in enumerate(self.grid.cells):
            if cell.experiment is None:
                continue
            images = cell.experiment.images
            group = next((numbers for known, numbers in groups if known == images), None)
            if group is None:
                groups.append((images, group := []))
            group.append(number)
        return groups

    @property
    def settings(self) -> list[Settings]:
        """What decides the banks of each group; none of a study that trains by itself."""
        return [self._settings(group) for group in range(len(self.groups))] if self.grid.study.train is None else []

    def _settings(self, group: int) -> Settings:
        images, numbers = self.groups[group]
        return Settings.of({**self.values, "set": self.grid.cells[numbers[0]].name}, images)

    @cached_property
    def tasks(self) -> list[tuple[int, Configuration]]:
        """What is trained, with all seeds at once: the group of a cell, and a configuration."""
        cells = [(group, self.grid.cells[number]) for group, (_, some) in enumerate(self.groups) for number in some]
        return [(group, row) for group, cell in cells for row in self._configurations(cell)]

    @cached_property
    def epochs(self) -> Epochs:
        """Those of all seeds of all tasks."""
        return Epochs(sum(len(self.seeds) * row.recipe.epochs for _, row in self.tasks), self.on_progress)

    def do(self, share: Share) -> None:
        """Train a share of the tasks, where they are not kept; a sweep of the grid then finds them.

        Raises:
            UserError: banks cannot be opened, a configuration cannot be trained, or nothing can be kept.
        """
        if not self.keeps:
            name = self.grid.study.name
            raise UserError(f"The code of {name} is in no file, so nothing can be kept: write it into a module.")
        for group, configuration in share.of(self.tasks):
            if self._opened is None or self._opened[0] != group:
                banks = self._banks(group)
                self._opened = group, banks, self._suite(banks)
            self._results(configuration, *self._opened[1:])

    def cells(self) -> list[Trained]:
        """Train all cells, those that share their banks one after the other; in the grid's order."""
        found = {k: Trained.failed(cell.problem) for k, cell in enumerate(self.grid.cells) if cell.experiment is None}
        possible = [number for _, numbers in self.groups for number in numbers]
        self._clock.sizes = {number: self._size(self.grid.cells[number]) for number in possible}
        for group, (_, numbers) in enumerate(self.groups):
            try:
                banks = self._banks(group)
                suite = self._suite(banks)
            except UserError as error:
                found |= {number: Trained.failed(str(error)) for number in numbers}
                self._warn(f"{self.grid.cells[numbers[0]].name} cannot be trained", str(error))
                continue
            for number in numbers:
                found[number] = self._cell(self.grid.cells[number], banks, suite, number, len(found))
        return [found[number] for number in range(len(self.grid.cells))]

    def _epochs(self, cell: Cell) -> int:
        """Of all seeds of all trainings of a cell."""
        return len(self.seeds) * sum(row.recipe.epochs for row in self._configurations(cell))

    def _configurations(self, cell: Cell) -> list[Configuration]:
        assert cell.experiment is not None, "others are not trained"
        return [row for row in cell.experiment.configurations if row.id in self._needed]

    def _size(self, cell: Cell) -> float:
        """How much work a cell is, in no unit."""
        assert cell.experiment is not None
        return self._epochs(cell) * (cell.experiment.images.train_count or 1)

    def _banks(self, group: int) -> Banks | None:
        if self.grid.study.train is not None:
            return None
        return self._settings(group).open_banks(self.on_progress)

    def _suite(self, banks: Banks | None) -> Suite:
        here = surroundings(banks, self.device, self.code, stacked=self.stacked)
        facts = {"study": self.grid.study.name, **here}
        if banks is not None and not self.facts:
            self.facts = {name: str(banks.fingerprints[name]) for name in ("teacher", "taps")}
        return Suite(self.values["cache"], self.title, facts)

    def _cell(self, cell: Cell, banks: Banks | None, suite: Suite, number: int, before: int) -> Trained:
        """Train what a cell needs and is not kept."""
        rows: Rows = []
        problems: dict[str, str] = {}
        costs: dict[str, float] = {}
        began, fresh = time.monotonic(), 0
        configurations = self._configurations(cell)
        for configuration in configurations:
            ahead = self.epochs.done + len(self.seeds) * configuration.recipe.epochs
            try:
                results, missing = self._results(configuration, banks, suite)
            except UserError as error:
                results, missing = dict.fromkeys(self.seeds, str(error)), [*self.seeds]
            fresh += bool(missing)
            self.epochs.done = ahead
            self.complete += 1
            for result in (results[seed] for seed in self.seeds if seed in results):
                if isinstance(result, str):
                    problems.setdefault(configuration.id, result)
                else:
                    rows += result
            if banks is not None and (flops := cost_of(configuration, banks).flops_per_sample) is not None:
                costs[configuration.id] = flops
        left = self._clock.left(number, time.monotonic() - began if fresh else None)
        lost = f", {len(problems)} without a result" if problems else ""
        LOG.info("[%d/%d] %s: %d trained, %d reused%s%s", before + 1, len(self.grid.cells), cell.name, fresh,
                 len(configurations) - fresh, lost, left)  # fmt: skip
        for name, sentence in problems.items():
            self._warn(f"{cell.name}, {name}", sentence)
        complete = (row for row in rows if row["configuration"] not in problems)
        return Trained(history.frame(complete), problems, costs)

    def _results(
        self, configuration: Configuration, banks: Banks | None, suite: Suite
    ) -> tuple[dict[int, Rows | str], list[int]]:
        """What is kept of a configuration or trained now, by seed, and the seeds that were trained now."""
        kept = Kept(self.directory, configuration, suite.facts) if self.keeps else None
        results = kept.read() if kept else {}
        hopeless = any(isinstance(results.get(seed), str) for seed in self.seeds)
        missing = [] if hopeless else [seed for seed in self.seeds if seed not in results]
        self.epochs.done += (len(self.seeds) - len(missing)) * configuration.recipe.epochs
        if missing:
            results |= train(
                self.grid.study, configuration, missing, banks, self.device, suite, kept, self.epochs,
                stacked=self.stacked,
            )  # fmt: skip
        return results, missing

    def _warn(self, where: str, sentence: str) -> None:
        """Say a sentence once, though many cells may have it."""
        if sentence not in self._said:
            LOG.warning("%s: %s", where, sentence)
        self._said.add(sentence)


class _Clock:
    """Tells about how long the cells that are left take, from those that were trained."""

    def __init__(self) -> None:
        self.sizes: dict[int, float] = {}  # of cells to come
        self._seconds, self._done = 0.0, 0.0

    def left(self, number: int, seconds: float | None) -> str:
        """After a cell, which took so many seconds; None: nothing was trained."""
        size = self.sizes.pop(number)
        if seconds is not None:
            self._seconds, self._done = self._seconds + seconds, self._done + size
        if seconds is None or not self.sizes:
            return ""
        rest = self._seconds / self._done * sum(self.sizes.values())
        return f"; at most about {duration(rest)} left"


def duration(seconds: float) -> str:
    """Seconds for a reader.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
