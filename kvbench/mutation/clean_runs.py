"""False alarms, counted: many clean runs of the small study against several references, side by side, resumable.

The chance of a false alarm is an average over references as well as over runs: a reference whose twenty seeds happen to
spread little alarms more often than another. So runs are dealt out to several references, each of seeds of its own.
Given the references all runs are independent, since no two share a seed, and the bound of Clopper and Pearson holds for
the mean of their rates (Hoeffding, *Annals of Mathematical Statistics* 1956: a sum of unlike chances has lighter tails
than a binomial of their mean).
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree

import torch

from kvbench.harness.result import Result
from kvbench.harness.resume import digest
from kvbench.harness.setup import Banks
from kvbench.harness.sweep import duration
from kvbench.mutation import small_study
from kvbench.mutation.known_truth import RUN_SEEDS
from kvbench.mutation.side_by_side import side_by_side
from kvbench.reference.store import load
from kvbench.results.saved import Outcome
from kvbench.utils.environment import code, environment
from kvbench.utils.errors import UserError
from kvbench.utils.progress import OnProgress, Progress, ignore

LOG = logging.getLogger(__name__)
DIRECTORY = "false-alarms"  # in the cache
REFERENCE_SEEDS, REPLICATES = 20, 6
FIRST_RUN_SEED = 1_000_000  # references have those below
FIRST_NOISE = 1000  # of perturbed features, as the replicates have other noise
NEW, SAME = "new seeds", "recorded seeds, other rounding"


@dataclass(frozen=True)
class Task:
    """One clean run: of which kind, its number, and the number of its reference."""

    kind: str
    number: int
    reference: int

    @property
    def seeds(self) -> range:
        """Its seeds; new ones are no other run's."""
        first = FIRST_RUN_SEED + self.number * RUN_SEEDS if self.kind == NEW else self.reference * REFERENCE_SEEDS
        return range(first, first + RUN_SEEDS)


@dataclass(frozen=True)
class CleanRun:
    """How a clean run came out.

    Args:
        kind, number, reference: its task's.
        tolerances: numbers of a configuration that left their tolerance.
        together: numbers of all configurations as one, likewise.
        verdicts: findings whose recorded verdict changed.
        unsettled: findings that its seeds are too few to confirm, which is no alarm.
    """

    kind: str
    number: int
    reference: int
    tolerances: int = 0
    together: int = 0
    verdicts: int = 0
    unsettled: int = 0

    @property
    def alarm(self) -> bool:
        """Whether the session failed."""
        return bool(self.tolerances or self.together or self.verdicts)

    @classmethod
    def of(cls, task: Task, result: Result) -> CleanRun:
        """What a session came to."""
        findings = small_study.EXPERIMENT.design.findings
        failed = [(name, check) for name, check in result.checks.items() if check.outcome is Outcome.FAILED]
        return cls(
            task.kind,
            task.number,
            task.reference,
            sum(len(check.metrics) or 1 for name, check in failed if name not in findings),
            len(result.reasons),
            sum(name in findings for name, _ in failed),
            len(result.names(Outcome.NOT_CONFIRMED)),
        )


def tasks(runs: int, same: int, references: int) -> list[Task]:
    """The runs of both kinds, dealt out to the references in turn."""
    return [Task(kind, number, number % references) for kind, count in ((NEW, runs), (SAME, same))
            for number in range(count)]  # fmt: skip


def folder_of(cache: Path) -> Path:
    """Where outcomes and references lie: a folder for each state of what decides them."""
    here = environment(torch.device("cpu"))
    facts = {name: here[name] for name in ("versions", "hardware", "random_numbers", "numerics")}
    return cache / DIRECTORY / digest({**facts, "code": code(())})


def record_reference(folder: Path, number: int) -> None:
    """Record a reference of the small study, unless it is there whole."""
    home = folder / f"reference-{number}"
    try:
        load(home, small_study.NAME, small_study.EXPERIMENT.design)
    except UserError:
        rmtree(home, ignore_errors=True)
        first = number * REFERENCE_SEEDS
        small_study.session(range(first, first + REFERENCE_SEEDS), home, replicates=REPLICATES)


def run(folder: Path, task: Task) -> CleanRun:
    """Train, compare and judge one clean run."""
    chosen = None
    if task.kind == SAME:
        clean, noise = small_study.banks(), FIRST_NOISE + 2 * task.number
        chosen = Banks(clean.train.perturbed(noise), clean.val.perturbed(noise + 1), clean.fingerprints)
    return CleanRun.of(task, small_study.session(task.seeds, folder / f"reference-{task.reference}", chosen=chosen))


def read(path: Path) -> list[CleanRun]:
    """The outcomes that a file holds, one a line; a line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in filter(None, lines):
        with suppress(ValueError, TypeError):
            found.append(CleanRun(**json.loads(line)))
    return found


def measure(
    cache: Path, runs: int, same: int, references: int, workers: int = 0, on_progress: OnProgress = ignore
) -> list[CleanRun]:
    """Train clean runs, as many side by side as there are workers; those that an earlier call left are not run again.

    Args:
        cache: outcomes are kept here, one a line, as they come.
        runs: how many with new seeds.
        same: how many that repeat their reference's first seeds on features of other rounding.
        references: how many, to which the runs are dealt out.
        workers: processes; 0: one a processor; 1: this one alone.
        on_progress: is told of runs that are done.
    """
    wanted, folder = tasks(runs, same, references), folder_of(cache)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "outcomes.jsonl"
    known = {(one.kind, one.number, one.reference): one for one in read(path)}
    missing = [task for task in wanted if (task.kind, task.number, task.reference) not in known]
    used = sorted({task.reference for task in missing})
    began, done = time.monotonic(), len(wanted) - len(missing)
    with side_by_side(workers) as each:
        for number, _ in enumerate(each(record_reference, [(folder, one) for one in used]), 1):
            on_progress(Progress("references", number, len(used), "reference"))
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # a line that was cut short ends here
            for outcome in each(run, [(folder, task) for task in missing]):
                file.write(json.dumps(asdict(outcome)) + "\n")
                file.flush()
                known[outcome.kind, outcome.number, outcome.reference] = outcome
                done += 1
                on_progress(Progress("clean runs", done, len(wanted), "run"))
                if done % 50 == 0:
                    fresh = done - len(wanted) + len(missing)
                    left = (time.monotonic() - began) / fresh * (len(wanted) - done)
                    LOG.info("%d of %d clean runs; about %s left", done, len(wanted), duration(left))
    return [known[task.kind, task.number, task.reference] for task in wanted]


def alarms_by_reference(outcomes: Sequence[CleanRun]) -> Counter[int]:
    """Alarms of each reference; those without are there with 0."""
    counted = Counter(dict.fromkeys((one.reference for one in outcomes), 0))
    counted.update(one.reference for one in outcomes if one.alarm)
    return counted
