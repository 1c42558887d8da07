"""False alarms, measured: replays of a clean run, on other rounding and on seeds that no reference has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import beta

from kvbench.findings.registry import judge
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference, verdict_changes
from kvbench.results import history

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Alarms:
    """What clean replays set off.

    Args:
        kind: how the replays were made, in words.
        runs: how many.
        gates: runs with a failed gate.
        verdicts: runs in which a recorded verdict changed.
        any: runs that failed, by either.
        unconfirmed: clauses a run that its seeds could not confirm, on average: an outcome of its own, no alarm.
        nearest: the largest excess of any gate of any run; above 1 it is an alarm.
        independent: whether no two of the runs share a seed, so that a bound on the rate can be given.
    """

    kind: str
    runs: int
    gates: int
    verdicts: int
    any: int
    unconfirmed: float
    nearest: float
    independent: bool

    @property
    def bound(self) -> float:
        """Upper 95% bound of the alarm rate (Clopper and Pearson); NaN where runs share seeds."""
        if not self.independent or not self.runs:
            return float("nan")
        return 1.0 if self.any == self.runs else float(beta.ppf(CONFIDENCE, self.any + 1, self.runs - self.any))


def count(kind: str, reference: Reference, replays: Iterator[tuple[Reference, pd.DataFrame, str]], *,
          independent: bool) -> Alarms:  # fmt: skip
    """Compare and judge replays as a session would.

    Args:
        kind: for the table.
        reference: whose configurations are compared.
        replays: for each its reference, the fresh histories, and the stream of random numbers (empty: seeds are new).
        independent: see `Alarms`.
    """
    names = history.configurations(reference.histories)
    gates, verdicts, unconfirmed, excess = [], [], [], [0.0]
    for against, fresh, rng_fingerprint in replays:
        made = [compare(against, fresh, name, rng_fingerprint=rng_fingerprint) for name in names]
        changes = verdict_changes(against, judge(fresh, against.costs), names)
        gates.append(any(comparison.failed for comparison in made))
        verdicts.append(any(change.failed for change in changes))
        unconfirmed.append(sum(change.unconfirmed for change in changes))
        excess += [outcome.excess for comparison in made for outcome in comparison.outcomes]
    either = int(np.sum(np.logical_or(gates, verdicts)))
    mean = float(np.mean(unconfirmed)) if unconfirmed else 0.0
    return Alarms(
        kind, len(gates), sum(gates), sum(verdicts), either, mean, float(np.nanmax(excess)), independent
    )  # fmt: skip


def apart(reference: Reference, clean: pd.DataFrame, size: int) -> Iterator[tuple[Reference, pd.DataFrame, str]]:
    """Replays of ``size`` seeds each of ``clean``, no seed twice."""
    seeds = history.seeds(clean)
    for start in range(0, len(seeds) - size + 1, size):
        yield reference, clean[clean["seed"].isin(seeds[start : start + size])], ""


def drawn(
    reference: Reference, clean: pd.DataFrame, size: int, draws: int
) -> Iterator[tuple[Reference, pd.DataFrame, str]]:
    """Replays of ``size`` seeds drawn from ``clean``: they share seeds."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        chosen = rng.choice(history.seeds(clean), size, replace=False)
        yield reference, clean[clean["seed"].isin(chosen)], ""


def redrawn(
    reference: Reference, clean: pd.DataFrame, size: int, draws: int
) -> Iterator[tuple[Reference, pd.DataFrame, str]]:
    """Seeds of the reference and of ``clean`` put together, and dealt anew: ``size`` fresh ones, the rest reference."""
    pool = pd.concat([reference.histories, clean], ignore_index=True)
    rng = np.random.default_rng(0)
    every = history.seeds(pool)
    for _ in range(draws):
        fresh = pool["seed"].isin(rng.choice(every, size, replace=False))
        yield replace(reference, histories=pool[~fresh], replicates=history.frame([])), pool[fresh], ""


def perturbed(
    reference: Reference, replays: Sequence[pd.DataFrame], rng_fingerprint: str
) -> Iterator[tuple[Reference, pd.DataFrame, str]]:
    """Replays of the reference's own seeds on banks rounded otherwise."""
    yield from zip(itertools.repeat(reference), replays, itertools.repeat(rng_fingerprint))


def halved(reference: Reference) -> Iterator[tuple[Reference, pd.DataFrame, str]]:
    """Each way to take half of the replicates as the run, on the reference's own seeds, the rest as its replicates."""
    seeds = history.seeds(reference.replicates)
    for chosen in itertools.combinations(seeds, len(seeds) // 2):
        fresh = reference.replicates["seed"].isin(chosen)
        yield (
            replace(reference, replicates=reference.replicates[~fresh]),
            reference.replicates[fresh],
            reference.rng_fingerprint,
        )
