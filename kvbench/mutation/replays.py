"""False alarms: clean runs on perturbed features and on new seeds, compared and judged as a session would."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kvbench.findings.judge import conclude, judge
from kvbench.mutation.injector import FaultInjector
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference
from kvbench.reference.together import compare_together
from kvbench.results import history
from kvbench.stats.intervals import upper_bound

DRAWS = 100  # resampled replays of each kind
logger = logging.getLogger(__name__)
Replay = tuple[Reference, pd.DataFrame, str]  # a reference, fresh histories, the RNG fingerprint (empty: new seeds)


@dataclass(frozen=True)
class FalseAlarms:
    """How many clean replays failed.

    Args:
        kind: how the replays were made, in words.
        runs: number of replays.
        drifted: runs in which a number of a configuration left its tolerance.
        together: runs in which one of all configurations together did.
        verdicts: runs in which a recorded verdict changed.
        any: runs that failed, by either.
        unconfirmed: clauses per run that its seeds could not confirm, on average; no alarm.
        largest_excess: the largest excess of any tolerance in any run; above 1 it is an alarm.
        independent: whether no two runs share a seed, so that the rate has an upper bound.
        as_recorded: by finding and recipe, the recorded verdict and in how many runs their own seeds gave it.
    """

    kind: str
    runs: int
    drifted: int
    together: int
    verdicts: int
    any: int
    unconfirmed: float
    largest_excess: float
    independent: bool
    as_recorded: tuple[tuple[str, str, str, int], ...] = ()

    @property
    def bound(self) -> float:
        """Upper 95% bound of the alarm rate (Clopper and Pearson); NaN where runs share seeds."""
        if not self.independent or not self.runs:
            return float("nan")
        return upper_bound(self.any, self.runs)


def count(kind: str, reference: Reference, replays: Iterator[Replay], *,
          independent: bool) -> FalseAlarms:  # fmt: skip
    """Compare and judge replays as a session would.

    Args:
        kind: how the replays were made, in words.
        reference: its configurations are compared.
        replays: what to compare.
        independent: see `FalseAlarms`.
    """
    names = history.configurations(reference.histories)
    drifted, shifted, verdicts, unconfirmed, excess = [], [], [], [], [0.0]
    of_clauses: dict[tuple[str, str], list[str]] = {}
    for finding, recipe, verdict in reference.recorded[["finding", "recipe", "verdict"]].itertuples(index=False):
        of_clauses.setdefault((finding, recipe), []).append(verdict)
    recorded = {key: str(conclude(of_each)) for key, of_each in of_clauses.items()}
    repeated = dict.fromkeys(recorded, 0)
    for against, fresh, rng_fingerprint in replays:
        comparisons = [compare(against, fresh, name, rng_fingerprint=rng_fingerprint) for name in names]
        together = compare_together(against, fresh, rng_fingerprint)
        judgements = judge(fresh, against.design, against.costs)
        for judgement in judgements:
            key = judgement.finding.id, judgement.recipe
            repeated[key] += judgement.verdict == recorded[key]
        changes = verdict_changes(against, judgements, names)
        drifted.append(any(comparison.failed for comparison in comparisons))
        shifted.append(any(number.failed for number in together))
        verdicts.append(any(change.failed for change in changes))
        unconfirmed.append(sum(change.unconfirmed for change in changes))
        excess += [deviation.excess for comparison in comparisons for deviation in comparison.deviations]
        excess += [number.excess for number in together]
    either = sum(map(any, zip(drifted, shifted, verdicts, strict=True)))
    mean = float(np.mean(unconfirmed)) if unconfirmed else 0.0
    return FalseAlarms(
        kind, len(drifted), sum(drifted), sum(shifted), sum(verdicts), either, mean, float(np.nanmax(excess)),
        independent, tuple((*key, verdict, repeated[key]) for key, verdict in recorded.items()),
    )  # fmt: skip


def disjoint(reference: Reference, clean: pd.DataFrame, size: int) -> Iterator[Replay]:
    """Replays of ``size`` seeds each of ``clean``, no seed twice."""
    seeds = history.seeds(clean)
    for start in range(0, len(seeds) - size + 1, size):
        yield reference, clean[clean["seed"].isin(seeds[start : start + size])], ""


def held_out(reference: Reference, size: int, draws: int) -> Iterator[Replay]:
    """Replays of ``size`` of the reference's seeds, as if they were new, against the rest of them."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        fresh = reference.histories["seed"].isin(rng.choice(history.seeds(reference.histories), size, replace=False))
        rest = replace(reference, histories=reference.histories[~fresh], replicates=history.frame([]))
        yield rest, reference.histories[fresh], ""


def resampled(reference: Reference, clean: pd.DataFrame, size: int, draws: int) -> Iterator[Replay]:
    """Replays of ``size`` seeds drawn from ``clean``: they share seeds."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        chosen = rng.choice(history.seeds(clean), size, replace=False)
        yield reference, clean[clean["seed"].isin(chosen)], ""


def reshuffled(reference: Reference, clean: pd.DataFrame, size: int, draws: int) -> Iterator[Replay]:
    """Seeds of the reference and of ``clean``, pooled and split at random: ``size`` fresh ones, the rest reference."""
    pool = pd.concat([reference.histories, clean], ignore_index=True)
    rng = np.random.default_rng(0)
    every = history.seeds(pool)
    for _ in range(draws):
        fresh = pool["seed"].isin(rng.choice(every, size, replace=False))
        yield replace(reference, histories=pool[~fresh], replicates=history.frame([])), pool[fresh], ""


def perturbed(reference: Reference, replays: Sequence[pd.DataFrame], rng_fingerprint: str) -> Iterator[Replay]:
    """Replays of the reference's own seeds on perturbed banks."""
    yield from zip(itertools.repeat(reference), replays, itertools.repeat(rng_fingerprint))


def split_replicates(reference: Reference) -> Iterator[Replay]:
    """Every way to take half of the replicates as the run and the other half as the reference's replicates."""
    seeds = history.seeds(reference.replicates)
    for chosen in itertools.combinations(seeds, len(seeds) // 2):
        fresh = reference.replicates["seed"].isin(chosen)
        yield (
            replace(reference, replicates=reference.replicates[~fresh]),
            reference.replicates[fresh],
            reference.rng_fingerprint,
        )


def measure(injector: FaultInjector, clean_seeds: Sequence[int], rounded: int) -> list[FalseAlarms]:
    """Train clean replays and count their false alarms.

    Args:
        injector: its configurations, reference and default seeds are used; no fault is injected.
        clean_seeds: new seeds, trained once each; a replay takes as many of them as a default run has.
        rounded: replays of the default seeds on perturbed banks.
    """
    reference, size = injector.reference, len(injector.seeds)
    names = history.configurations(reference.histories)
    counted = []
    frames = []
    for number in range(rounded):
        banks = injector.perturbed(number)
        trained = [injector.train(name, lambda banks=banks: banks, what=f"rounding {number}") for name in names]  # type: ignore[misc]
        frames.append(pd.concat(trained, ignore_index=True))
        logger.info("clean replay %d of %d on perturbed features is trained", number + 1, rounded)
    if rounded:
        kind = f"the default run (seeds {seed_range(injector.seeds)}) on perturbed features"
        same = perturbed(reference, frames, injector.rng_fingerprint)
        counted.append(count(kind, reference, same, independent=True))
    replicates = len(history.seeds(reference.replicates))
    if replicates > 1:
        kind = f"half of the reference's {replicates} replicates as the run, the rest as replicates"
        counted.append(count(kind, reference, split_replicates(reference), independent=False))
    if len(clean_seeds) >= size:
        parts = []
        for name in names:
            parts.append(injector.train(name, seeds=clean_seeds))
            logger.info("%d clean seeds of %s are trained", len(clean_seeds), name)
        clean = pd.concat(parts, ignore_index=True)
        among = f"seeds {seed_range(clean_seeds)}"
        kind = f"{size} new seeds, no seed twice, of {among}"
        counted.append(count(kind, reference, disjoint(reference, clean, size), independent=True))
        kind = f"{size} seeds drawn from {among} and the reference's, the rest as reference"
        counted.append(count(kind, reference, reshuffled(reference, clean, size, DRAWS), independent=False))
        if len(clean_seeds) > size:
            kind = f"{size} new seeds drawn from {among}"
            counted.append(count(kind, reference, resampled(reference, clean, size, DRAWS), independent=False))
    return counted


def seed_range(seeds: Sequence[int]) -> str:
    """``0-3`` for the seeds 0, 1, 2 and 3."""
    return f"{seeds[0]}-{seeds[-1]}"
