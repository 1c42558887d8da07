"""Detection, measured: each fault of the catalogue injected into a run with the default seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from kvbench.core.models import STUDENTS
from kvbench.core.recipe import configurations
from kvbench.core.trainer import Training
from kvbench.findings.registry import judge
from kvbench.harness.record import made_from
from kvbench.harness.setup import Banks, Settings
from kvbench.mutation.faults import Fault
from kvbench.reference.compare import Comparison, compare
from kvbench.reference.store import Reference, verdict_changes
from kvbench.reference.tolerances import Outcome
from kvbench.results import history
from kvbench.utils.environment import rng_fingerprint
from kvbench.utils.errors import UserError
from kvbench.workloads import Workload


@dataclass(frozen=True)
class Trial:
    """What became of a fault.

    Args:
        fault: which.
        changed: whether any number of a run is another than without it.
        stopped: the sentence with which the run stopped or was refused; empty if it ran.
        paired: comparisons of the configurations trained, each seed with its recorded self.
        unpaired: the same as if the seeds were new.
        verdicts: recorded verdicts that changed.
        innocent: whether the configurations that it must not move stayed bitwise the same.
    """

    fault: Fault
    changed: bool
    stopped: str = ""
    paired: tuple[Comparison, ...] = ()
    unpaired: tuple[Comparison, ...] = ()
    verdicts: tuple[str, ...] = ()
    innocent: bool = True

    @property
    def noticed(self) -> bool:
        """Whether the default run fails."""
        return bool(self.stopped or self.verdicts) or any(comparison.failed for comparison in self.paired)

    @property
    def noticed_unpaired(self) -> bool:
        """Whether a run with as many new seeds would."""
        return bool(self.stopped or self.verdicts) or any(comparison.failed for comparison in self.unpaired)

    def strongest(self, comparisons: Sequence[Comparison]) -> tuple[str, Outcome] | None:
        """The configuration and gate farthest outside what was allowed, or nearest to it."""
        found = [(c.configuration, outcome) for c in comparisons for outcome in c.outcomes]
        return max(found, key=lambda pair: (pair[1].failed, pair[1].excess), default=None)


@dataclass
class Laboratory:
    """Trains configurations with and without faults, on the default seeds.

    Args:
        settings: of the workload, as a session has them.
        reference: what its runs are compared with.
        seeds: those of a default run.
    """

    settings: Settings
    reference: Reference
    seeds: tuple[int, ...]
    _clean: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.banks = self.settings.open_banks()
        self.rng_fingerprint = rng_fingerprint()  # before any fault: some are patches of what draws the numbers

    @property
    def workload(self) -> Workload:
        """The settings' workload."""
        return self.settings.workload

    def train(self, name: str, banks: Banks | None = None, seeds: Sequence[int] = ()) -> pd.DataFrame:
        """Train one configuration to its end, on the laboratory's banks and seeds unless others are given."""
        rows = {row.id: row for row in configurations(list(STUDENTS), self.workload.recipe)}
        made = banks or self.banks
        training = Training(rows[name], made.train, made.val, seeds or self.seeds)
        training.finish()
        return history.check(history.frame(training.history), f"the run of {name}", fresh=True)

    def clean(self, name: str) -> pd.DataFrame:
        """Histories without any fault; trained once."""
        if name not in self._clean:
            self._clean[name] = self.train(name)
        return self._clean[name]

    def extracted(self) -> Banks:
        """Both banks made anew, in files that are gone when nobody reads them any more."""
        with TemporaryDirectory() as folder:
            return replace(self.settings, cache=Path(folder)).open_banks()

    def perturbed(self, seed: int) -> Banks:
        """The banks as another platform might have left them; the reference's replicates have other noise."""
        noise = 1000 + 2 * seed
        train, val = self.banks.train.perturbed(noise), self.banks.val.perturbed(noise + 1)
        return Banks(train, val, self.banks.fingerprints)

    def trial(self, fault: Fault) -> Trial:
        """Train a fault's probes, then all other configurations, until one is noticed; then its bystanders."""
        others = [c for c in history.configurations(self.reference.histories) if c not in fault.probes]
        frames: dict[str, pd.DataFrame] = {}
        outcome: Trial | None = None
        with fault.inject():
            banks = None
            try:
                banks = self.extracted() if fault.teacher else None
                for name in (*fault.probes, *(others if not fault.unseen else ())):
                    frames[name] = self.train(name, banks)
                    outcome = self._weigh(fault, frames)
                    if outcome.noticed:
                        break
            except UserError as error:
                return Trial(fault, changed=True, stopped=str(error).partition("\n")[0])
            side_by_side = {name: self.train(name, banks) for name in fault.bystanders}
        assert outcome is not None, "a fault has probes"
        # Outside of the fault: what is clean and not yet trained must be trained without it.
        innocent = all(_same(frame, self.clean(name)) for name, frame in side_by_side.items())
        changed = any(not _same(frame, self.clean(name)) for name, frame in frames.items())
        return replace(outcome, changed=changed, innocent=innocent)

    def _weigh(self, fault: Fault, frames: dict[str, pd.DataFrame]) -> Trial:
        """Compare what was trained with a fault, both ways, and judge the findings; ``changed`` is left for later."""
        prints = made_from(self.workload, self.banks)
        both = [
            tuple(compare(self.reference, frame, name, prints, self.seeds, numbers) for name, frame in frames.items())
            for numbers in (self.rng_fingerprint, "")
        ]
        others = self.reference.histories
        others = others[others["seed"].isin(self.seeds) & ~others["configuration"].isin(list(frames))]
        judged = judge(pd.concat([others, *frames.values()], ignore_index=True), self.reference.costs)
        changes = [change for change in verdict_changes(self.reference, judged) if change.failed]
        told = tuple(f"{change.finding} ({change.recipe}), {change.clause}" for change in changes)
        refused = next((problem for comparison in both[0] for problem in comparison.problems), "")
        return Trial(fault, False, refused, both[0], both[1], told)


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one.drop(columns="seconds").equals(other.drop(columns="seconds"))
