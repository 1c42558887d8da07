"""Fault injection: a run with the default seeds is trained with a fault, and compared and judged as a session would.

Each training that comes to its end is kept in the cache, as those of a sweep are, so an interrupted measurement goes on
where it was. What is kept is keyed by all that decides its numbers, kvbench's source among it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.findings.judge import judge
from kvbench.harness.kept import Kept, Rows
from kvbench.harness.projects import FOLDER
from kvbench.harness.record import made_from, probes, projections, surroundings
from kvbench.harness.resume import plain
from kvbench.harness.setup import Banks, Settings
from kvbench.harness.sweep import duration
from kvbench.mutation.faults import CannotActError, Fault
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import Comparison, compare
from kvbench.reference.drift import Drift
from kvbench.reference.features import compare_features
from kvbench.reference.probes import compare_probes
from kvbench.reference.store import Reference
from kvbench.reference.together import Together, compare_together
from kvbench.reference.tolerances import Deviation
from kvbench.results import history
from kvbench.studies.experiment import Experiment
from kvbench.utils.environment import code, rng_fingerprint
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.progress import OnProgress, Progress, ignore

LOG = logging.getLogger(__name__)
DIRECTORY = "faults"  # in the cache


@dataclass(frozen=True)
class FaultResult:
    """Whether a run detects a fault, and by what.

    Args:
        fault: the row of the table.
        changed: whether it changes any number of a run. Without a change it is an equivalent mutant.
        cannot: why it has nothing to act on here; empty if it acts.
        error: the sentence with which the run stopped or was refused; empty if it ran.
        features: how far what students are given is from what they were given when the reference was recorded.
        probes: how far what students compute and learn from fixed numbers is from what they did then.
        paired: comparisons of the trained configurations, each seed with its own recorded run.
        unpaired: the same with a reference that lacks these seeds.
        together: all configurations as one with that reference, where all were trained.
        verdicts: recorded verdicts that changed.
        controls_unchanged: whether the configurations that it must not change stayed bitwise the same.
    """

    fault: Fault
    changed: bool
    cannot: str = ""
    error: str = ""
    features: tuple[Drift, ...] = ()
    probes: tuple[Drift, ...] = ()
    paired: tuple[Comparison, ...] = ()
    unpaired: tuple[Comparison, ...] = ()
    together: tuple[Together, ...] = ()
    verdicts: tuple[str, ...] = ()
    controls_unchanged: bool = True

    @property
    def detected(self) -> bool:
        """Whether the default run fails."""
        return self._whatever_seeds or any(comparison.failed for comparison in self.paired)

    @property
    def outcome(self) -> str:
        """What came out, in a few words."""
        if self.cannot:
            return f"left out, {self.cannot}"
        if not self.changed:
            return "changes nothing"
        new = "" if self.detected == self.detected_unpaired else ", but not by new seeds"
        return "missed" if not self.detected else f"detected{new}"

    @property
    def detected_unpaired(self) -> bool:
        """Whether a run with as many new seeds would fail."""
        one = any(comparison.failed for comparison in self.unpaired)
        return self._whatever_seeds or one or any(number.failed for number in self.together)

    @property
    def _whatever_seeds(self) -> bool:
        return bool(self.error or self.verdicts) or any(drift.failed for drift in (*self.features, *self.probes))

    def largest_deviation(self, comparisons: Sequence[Comparison]) -> tuple[str, Deviation] | None:
        """The configuration and the tolerance with the largest excess; above 1 it lies outside what is allowed.

        A number that is missing or not finite counts as farthest outside.
        """
        found = [(c.configuration, deviation) for c in comparisons for deviation in c.deviations]
        return max(
            found, key=lambda pair: (pair[1].status.failed, np.nan_to_num(pair[1].excess, nan=np.inf)), default=None
        )

    @property
    def excess_as_new(self) -> float:
        """The largest excess with new seeds, of one configuration or of all together."""
        one = self.largest_deviation(self.unpaired)
        return max([one[1].excess if one else 0.0, *(number.excess for number in self.together)])


@dataclass
class FaultInjector:
    """Trains configurations with and without faults, on the default seeds.

    Args:
        experiment: a study on a workload.
        settings: those of a session: workload, device, cache.
        reference: what runs are compared with.
        seeds: the seeds of a default run.
    """

    experiment: Experiment
    settings: Settings
    reference: Reference
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        self.on_training: Callable[[str], object] = lambda _: None
        self.banks = self.settings.open_banks()
        self.rng_fingerprint = rng_fingerprint()  # before any fault: some are patches of what draws the numbers
        self.rows = {row.id: row for row in self.experiment.configurations}
        self.directory = self.settings.cache / DIRECTORY / plain(self.experiment.name)
        here = surroundings(self.banks, self.settings.device, code({path for path in [Path(FOLDER)] if path.is_dir()}))
        self.facts = {**made_from(self.experiment, self.banks), **here}
        names = history.configurations(self.reference.histories)
        seconds = {name: history.of(self.reference.histories, name)["seconds"].median() for name in names}
        self.cheapest_first = sorted((name for name in names if name in self.rows), key=lambda name: seconds[name])

    @cached_property
    def unseen(self) -> Reference:
        """The reference without the default seeds, for which these are new; all of it where too few would be left."""
        rest = self.reference.histories[~self.reference.histories["seed"].isin(self.seeds)]
        left = [len(history.seeds(history.of(rest, name))) for name in history.configurations(self.reference.histories)]
        histories = rest if min(left) > 1 else self.reference.histories
        return replace(self.reference, histories=histories, replicates=history.frame([]))

    def train(
        self, name: str, banks: Callable[[], Banks] | None = None, seeds: Sequence[int] = (), what: str = ""
    ) -> pd.DataFrame:
        """The history frame of one configuration, trained to its end or kept.

        Args:
            name: which.
            banks: opens others than the injector's.
            seeds: others than the injector's.
            what: names all that is unlike a clean run, such as a fault.

        Raises:
            UserError: the run stops, or leaves what no history can hold.
        """
        row, wanted = self.rows[name], seeds or self.seeds
        kept = Kept(self.directory, row, {**self.facts, "what": what})
        results = kept.read()
        if missing := [seed for seed in wanted if seed not in results]:
            self.on_training(f"{name}, {what.partition(':')[0] or 'without a fault'}")
            opened = banks() if banks else self.banks
            trained = self._train(row, opened, missing)
            results |= trained
            with best_effort(f"keep the results of {name}"):
                kept.write(trained)
        rows: Rows = []
        for result in (results[seed] for seed in wanted):
            if isinstance(result, str):
                raise UserError(result)
            rows += result
        return history.frame(rows)

    def _train(self, row: Configuration, banks: Banks, seeds: Sequence[int]) -> dict[int, Rows | str]:
        """The rows of each seed, or for all of them the sentence with which the run stops."""
        try:
            training = Training(row, banks.train, banks.val, seeds)
            training.finish()
            history.check(history.frame(training.history), f"the run of {row.id}", fresh=True)
        except UserError as error:
            return dict.fromkeys(seeds, str(error))
        return {run.seed: run.history for run in training.runs}

    def baseline(self, name: str) -> pd.DataFrame:
        """The history of a configuration without any fault."""
        return self.train(name)

    def perturbed(self, seed: int) -> Banks:
        """The banks as another platform might have rounded them; the reference's replicates have other noise."""
        noise = 1000 + 2 * seed
        train, val = self.banks.train.perturbed(noise), self.banks.val.perturbed(noise + 1)
        return Banks(train, val, self.banks.fingerprints)

    def test_all(self, faults: Sequence[Fault], on_progress: OnProgress = ignore) -> Iterator[FaultResult]:
        """Test one fault after another; logs how each came out and about how long the rest takes."""
        began = time.monotonic()
        for number, fault in enumerate(faults, 1):

            def show(what: str, done: int = number - 1) -> None:
                on_progress(Progress(what, done, len(faults), "fault"))

            result = self.test(fault, show)
            rest = (time.monotonic() - began) / number * (len(faults) - number)
            left = f"; about {duration(rest)} left" if rest else ""
            LOG.info("[%d/%d] %s: %s%s", number, len(faults), fault.id, result.outcome, left)
            yield result

    def test(self, fault: Fault, on_training: Callable[[str], object] = lambda _: None) -> FaultResult:
        """Train what a fault should change, then what it may change, until it is detected by recorded and new seeds.

        What a student is given, computes or learns may show it before anything is trained. Its controls come last.
        ``on_training`` is told which configuration is trained with what.
        """
        self.on_training = on_training
        first = fault.probed(self.experiment.configurations)
        if not first:
            return FaultResult(fault, False, f"{self.experiment.study.name} has no student that it is about")
        touched = fault.touched(self.experiment.configurations)
        others = [name for name in self.cheapest_first if name in touched and name not in first]
        frames: dict[str, pd.DataFrame] = {}
        result = FaultResult(fault, changed=False)
        faulty = _Faulty(self, fault)
        try:
            drifts = [faulty.drifts(name) for name in first]
            given, learned = (tuple(drift for pair in drifts for drift in pair[kind]) for kind in (0, 1))
            if any(drift.failed for drift in (*given, *learned)):
                return FaultResult(fault, changed=True, features=given, probes=learned)
            for name in (*first, *(others if not fault.equivalent else ())):
                frames[name] = faulty.train(name)
                result = self._compare(fault, frames)
                if result.detected and result.detected_unpaired:
                    break
            else:
                if not fault.equivalent:
                    result = replace(result, together=self._together(frames))
            unaffected = {name: faulty.train(name) for name in fault.controlled(self.experiment.configurations)}
        except CannotActError as reason:
            return FaultResult(fault, False, str(reason))
        except UserError as error:
            return FaultResult(fault, changed=True, error=str(error).partition("\n")[0])
        controls_unchanged = all(_same(frame, self.baseline(name)) for name, frame in unaffected.items())
        changed = any(not _same(frame, self.baseline(name)) for name, frame in frames.items())
        return replace(result, changed=changed, controls_unchanged=controls_unchanged)

    def _together(self, frames: dict[str, pd.DataFrame]) -> tuple[Together, ...]:
        """All configurations as one, those that the fault cannot touch as they are without it."""
        names = history.configurations(self.reference.histories)
        rest = [self.baseline(name) for name in names if name not in frames and name in self.rows]
        return compare_together(self.unseen, pd.concat([*frames.values(), *rest], ignore_index=True))

    def _compare(self, fault: Fault, frames: dict[str, pd.DataFrame]) -> FaultResult:
        """Compare what was trained with a fault, both ways, and judge the findings; ``changed`` is left for later."""
        fingerprints = made_from(self.experiment, self.banks)
        paired, unpaired = (
            tuple(compare(against, frame, name, fingerprints, self.seeds, rng) for name, frame in frames.items())
            for against, rng in ((self.reference, self.rng_fingerprint), (self.unseen, ""))
        )
        others = self.reference.histories
        others = others[others["seed"].isin(self.seeds) & ~others["configuration"].isin(list(frames))]
        judged = judge(
            pd.concat([others, *frames.values()], ignore_index=True), self.reference.design, self.reference.costs
        )
        changes = [change for change in verdict_changes(self.reference, judged) if change.failed]
        changed_verdicts = tuple(f"{change.finding} ({change.recipe}), {change.clause}" for change in changes)
        refused = next((problem for comparison in paired for problem in comparison.problems), "")
        return FaultResult(
            fault, False, error=refused, paired=paired, unpaired=unpaired, verdicts=changed_verdicts
        )  # fmt: skip


@dataclass
class _Faulty:
    """Trainings with one fault; of a fault of the teacher's pass, on banks that are extracted with it, once."""

    injector: FaultInjector
    fault: Fault

    def train(self, name: str) -> pd.DataFrame:
        with self.fault.inject():
            banks = (lambda: self.banks) if self.fault.teacher else None
            return self.injector.train(name, banks, what=f"{self.fault.id}: {self.fault.description}")

    def drifts(self, name: str) -> tuple[tuple[Drift, ...], tuple[Drift, ...]]:
        """How far what a student is given, and what it computes and learns, is from what is recorded."""
        injector = self.injector
        facts = made_from(injector.experiment, injector.banks)
        with self.fault.inject():
            opened = self.banks if self.fault.teacher else injector.banks
            run = Run(injector.rows[name], opened.train, opened.val, injector.seeds[0])
            given, found = projections(run, facts), dict[str, list[float]]()
            with best_effort(f"probe {name}"):
                found = probes(run)
        reference = injector.reference
        return compare_features(reference, given, facts), compare_probes(reference, found, facts)

    @cached_property
    def banks(self) -> Banks:
        """Both banks, extracted again into temporary files; raises `CannotActError` where they are the same."""
        with TemporaryDirectory() as folder:
            banks = replace(self.injector.settings, cache=Path(folder)).open_banks()
        if all(a.digest == b.digest for a, b in zip(self._both(banks), self._both(self.injector.banks), strict=True)):
            raise CannotActError("what it patches makes no image or feature of this workload")
        return banks

    @staticmethod
    def _both(banks: Banks) -> tuple[FeatureBank, FeatureBank]:
        return banks.train, banks.val


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one.drop(columns="seconds").equals(other.drop(columns="seconds"))
