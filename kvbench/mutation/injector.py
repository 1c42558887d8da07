"""Fault injection: a run with the default seeds is trained with a fault, and compared and judged as a session would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from kvbench.core.trainer import Training
from kvbench.findings.judge import judge
from kvbench.harness.record import made_from
from kvbench.harness.setup import Banks, Settings
from kvbench.mutation.faults import Fault
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import Comparison, compare
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import Deviation
from kvbench.results import history
from kvbench.studies.experiment import Experiment
from kvbench.utils.environment import rng_fingerprint
from kvbench.utils.errors import UserError


@dataclass(frozen=True)
class FaultResult:
    """Whether a run detects a fault, and by what.

    Args:
        fault: the row of the table.
        changed: whether it changes any number of a run. Without a change it is an equivalent mutant.
        error: the sentence with which the run stopped or was refused; empty if it ran.
        paired: comparisons of the trained configurations, each seed with its own recorded run.
        unpaired: the same comparisons, as if the seeds were new.
        verdicts: recorded verdicts that changed.
        controls_unchanged: whether the configurations that it must not change stayed bitwise the same.
    """

    fault: Fault
    changed: bool
    error: str = ""
    paired: tuple[Comparison, ...] = ()
    unpaired: tuple[Comparison, ...] = ()
    verdicts: tuple[str, ...] = ()
    controls_unchanged: bool = True

    @property
    def detected(self) -> bool:
        """Whether the default run fails."""
        return bool(self.error or self.verdicts) or any(comparison.failed for comparison in self.paired)

    @property
    def detected_unpaired(self) -> bool:
        """Whether a run with as many new seeds would fail."""
        return bool(self.error or self.verdicts) or any(comparison.failed for comparison in self.unpaired)

    def largest_deviation(self, comparisons: Sequence[Comparison]) -> tuple[str, Deviation] | None:
        """The configuration and the tolerance with the largest excess; above 1 it lies outside what is allowed.

        A number that is missing or not finite counts as farthest outside.
        """
        found = [(c.configuration, deviation) for c in comparisons for deviation in c.deviations]
        return max(
            found, key=lambda pair: (pair[1].status.failed, np.nan_to_num(pair[1].excess, nan=np.inf)), default=None
        )


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
    _baselines: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.banks = self.settings.open_banks()
        self.rng_fingerprint = rng_fingerprint()  # before any fault: some are patches of what draws the numbers

    def train(self, name: str, banks: Banks | None = None, seeds: Sequence[int] = ()) -> pd.DataFrame:
        """Train one configuration to its end and return its history frame; default: the injector's banks and seeds."""
        rows = {row.id: row for row in self.experiment.configurations}
        banks = banks or self.banks
        training = Training(rows[name], banks.train, banks.val, seeds or self.seeds)
        training.finish()
        return history.check(history.frame(training.history), f"the run of {name}", fresh=True)

    def baseline(self, name: str) -> pd.DataFrame:
        """The history of a configuration without any fault; trained once."""
        if name not in self._baselines:
            self._baselines[name] = self.train(name)
        return self._baselines[name]

    def extract(self) -> Banks:
        """Extract both banks again, with whatever fault is active, into temporary files."""
        with TemporaryDirectory() as folder:
            return replace(self.settings, cache=Path(folder)).open_banks()

    def perturbed(self, seed: int) -> Banks:
        """The banks as another platform might have rounded them; the reference's replicates have other noise."""
        noise = 1000 + 2 * seed
        train, val = self.banks.train.perturbed(noise), self.banks.val.perturbed(noise + 1)
        return Banks(train, val, self.banks.fingerprints)

    def test(self, fault: Fault) -> FaultResult:
        """Train the probes of a fault, then all other configurations, until it is detected; then its controls."""
        probes = fault.probed(self.experiment.configurations)
        others = [c for c in history.configurations(self.reference.histories) if c not in probes]
        frames: dict[str, pd.DataFrame] = {}
        result: FaultResult | None = None
        with fault.inject():
            banks = None
            try:
                banks = self.extract() if fault.teacher else None
                for name in (*probes, *(others if not fault.equivalent else ())):
                    frames[name] = self.train(name, banks)
                    result = self._compare(fault, frames)
                    if result.detected:
                        break
            except UserError as error:
                return FaultResult(fault, changed=True, error=str(error).partition("\n")[0])
            unaffected = {name: self.train(name, banks) for name in fault.controlled(self.experiment.configurations)}
        assert result is not None, "only faults that apply are tested"
        # Outside the fault: baselines that are not yet trained must be trained without it.
        controls_unchanged = all(_same(frame, self.baseline(name)) for name, frame in unaffected.items())
        changed = any(not _same(frame, self.baseline(name)) for name, frame in frames.items())
        return replace(result, changed=changed, controls_unchanged=controls_unchanged)

    def _compare(self, fault: Fault, frames: dict[str, pd.DataFrame]) -> FaultResult:
        """Compare what was trained with a fault, both ways, and judge the findings; ``changed`` is left for later."""
        fingerprints = made_from(self.experiment, self.banks)
        paired, unpaired = (
            tuple(compare(self.reference, frame, name, fingerprints, self.seeds, rng) for name, frame in frames.items())
            for rng in (self.rng_fingerprint, "")
        )
        others = self.reference.histories
        others = others[others["seed"].isin(self.seeds) & ~others["configuration"].isin(list(frames))]
        judged = judge(
            pd.concat([others, *frames.values()], ignore_index=True), self.reference.design, self.reference.costs
        )
        changes = [change for change in verdict_changes(self.reference, judged) if change.failed]
        changed_verdicts = tuple(f"{change.finding} ({change.recipe}), {change.clause}" for change in changes)
        refused = next((problem for comparison in paired for problem in comparison.problems), "")
        return FaultResult(fault, False, refused, paired, unpaired, changed_verdicts)


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one.drop(columns="seconds").equals(other.drop(columns="seconds"))
