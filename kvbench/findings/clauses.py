"""Clauses: one comparison each, with margins per seed, tests, an interval and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvbench.stats.intervals import Floats, deviation
from kvbench.stats.significance import (
    MOST_SEEDS,
    NO_TEST,
    SIGN,
    SIGN_FLIPS,
    MeanTest,
    mean_test,
    seeds_for,
    smallest_effect,
    without_spread,
)

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
RATIO, DIFFERENCE, EPOCHS = "ratio", "difference", "epochs"  # what a margin is in


@dataclass(frozen=True)
class Claim:
    """A comparison before it is judged.

    Args:
        id: stable inside the finding and recipe, such as ``Model1-loss``.
        sentence: what is claimed, with any limit in it.
        scale: ``ratio`` (margins are natural logarithms), ``difference`` or ``epochs``.
        seeds: the S seeds of the margins.
        margins: (S, P), one column a rival; positive supports the claim, which needs every column's mean above 0.
        rivals: the P columns' names.
        numbers: what was compared, mean over the seeds, in words.
        tie_holds: whether no difference at all, at any seed, supports the claim.
        gating: whether it counts for the finding's verdict; the others are reported beside it.
        contradicted: every seed by itself speaks against it, though the margins are only bounds.
        note: why it could not be measured as usual, if so.
    """

    id: str
    sentence: str
    scale: str
    seeds: tuple[int, ...]
    margins: Floats
    rivals: tuple[str, ...]
    numbers: str
    tie_holds: bool = False
    gating: bool = True
    contradicted: bool = False
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """A claim with its tests.

    Args:
        claim: what was tested.
        missing: seeds with a margin that is no number; nothing is tested then.
        decisive: the column whose mean is least sure to be above 0; what is told of the margins is told of it.
        test: of the decisive column; None where a number is missing.
        holds: p-value against "some column's mean is at most 0": the largest of the columns' (intersection-union).
        fails: p-value against "every column's mean is at least 0": the smallest of the columns' times P (Bonferroni).
    """

    claim: Claim
    missing: tuple[int, ...]
    decisive: int
    test: MeanTest | None
    holds: float
    fails: float


def evaluate_claim(claim: Claim, finest: float) -> Evidence:
    """Test a claim's margins from both sides; ``finest`` is the smallest level that a p-value has to reach."""
    # Rounded so that 0.646 - 0.636 - 0.01 is the tie that it is; + 0.0 turns -0 into 0.
    margins = np.round(claim.margins, 12) + 0.0
    missing = tuple(seed for seed, row in zip(claim.seeds, margins, strict=True) if np.isnan(row).any())
    if missing:
        return Evidence(claim, missing, int(np.argmin(np.nan_to_num(margins.mean(0)))), None, math.nan, math.nan)
    tests = [mean_test(column, finest) for column in margins.T]
    if len(claim.seeds) == 1:
        decisive = int(np.argmin(margins[0]))
        supported = margins[0, decisive] > 0 or (claim.tie_holds and margins[0, decisive] == 0)
        return Evidence(claim, (), decisive, tests[decisive], float(not supported), float(supported))
    sure = without_spread(len(claim.seeds))
    if claim.contradicted:
        decisive = int(np.argmin(margins.mean(0)))
        return Evidence(claim, (), decisive, tests[decisive], 1.0, sure)
    # No difference at all, at any seed, is a tie: of the side that the claim gives ties to.
    tied = (margins == 0).all(axis=0)
    above = np.where(tied, sure if claim.tie_holds else 1.0, [test.above for test in tests])
    below = np.where(tied, 1.0 if claim.tie_holds else sure, [test.below for test in tests])
    decisive = int(np.lexsort((margins.mean(0), -above))[0])
    fails = min(1.0, float(below.min()) * len(tests))
    return Evidence(claim, (), decisive, tests[decisive], float(above.max()), fails)


@dataclass(frozen=True)
class Clause:
    """One comparison of a finding, judged.

    Args:
        id, sentence, scale, numbers, gating: the claim's.
        margins: per seed, against the rival that decides; positive supports the clause.
        margin, low, high: their mean and its 95% interval; infinite bounds for one seed, NaN if a number is missing.
        n: seeds with a margin.
        verdict: ``holds``, ``fails`` or ``undecided``.
        method: how it was tested: `kvbench.stats.significance.SIGN`, ``T_TEST``, ``SIGN_FLIPS`` or ``NO_TEST``.
        p: p-value of the side that the margin speaks for; NaN without a test.
        level: what ``p`` must not exceed.
        rival: whom the margins are against.
        needed: how many seeds would decide it if the margin is what it looks like; None: more than can be counted on.
        note: what else there is to say, such as why it could not be decided.
    """

    id: str
    sentence: str
    scale: str
    margins: Mapping[int, float]
    margin: float
    low: float
    high: float
    n: int
    verdict: str
    numbers: str
    gating: bool = True
    method: str = SIGN
    p: float = math.nan
    level: float = math.nan
    rival: str = ""
    needed: int | None = None
    note: str = ""

    @property
    def spread(self) -> float:
        """Standard deviation of the margins between seeds."""
        return deviation(np.array(list(self.margins.values())))

    def describe(self) -> str:
        """One line: verdict, sentence, numbers, margin with its interval."""
        aside = "" if self.gating else " (reported beside, does not count)"
        return f"{self.verdict:<9}  {self.id}{aside}: {self.sentence}: {self.numbers}; {self.describe_margin()}"

    def describe_margin(self) -> str:
        """The mean margin with interval, n and test, for the reader: log ratios as ratios."""
        if math.isnan(self.margin):
            return self.note
        text = f"margin {show(self.margin, self.scale)}"
        if self.n > 1:
            text += f", 95% interval {show(self.low, self.scale)} to {show(self.high, self.scale)}, {self.n} seeds"
            text += f", p = {self.p:.2g} by {self.method} at level {self.level:.2g}" if self.gating else ""
        else:
            text += ", one seed: no interval"
        return f"{text}; {self.note}" if self.note else text


def show(margin: float, scale: str) -> str:
    """A margin for the reader: ``1.25x`` for a log ratio, else with its sign."""
    if math.isnan(margin):
        return "unknown"
    if scale == RATIO:
        return f"{math.exp(min(margin, 700)):.3g}x"  # exp overflows above 709
    return f"{margin:+.2f} epochs" if scale == EPOCHS else f"{margin:+.4f}"


def decide(evidence: Evidence, level: float, siblings: int) -> Clause:
    """Give the verdict at a one-sided ``level``.

    A clause fails at ``level / siblings``, since a finding of that many clauses fails as a whole if any of them does;
    it holds as a whole only if all do, so that each may hold at ``level``.
    """
    claim = evidence.claim
    column = np.round(claim.margins[:, evidence.decisive], 12) + 0.0
    margins = {seed: float(margin) for seed, margin in zip(claim.seeds, column, strict=True)}
    if evidence.test is None:
        which = ", ".join(map(str, evidence.missing))
        which = f"seed {which}" if len(evidence.missing) < len(column) else "any seed"
        note = f"a number is missing or not finite for {which}"
        nan, found = math.nan, len(column) - len(evidence.missing)
        return Clause(
            claim.id, claim.sentence, claim.scale, margins, nan, nan, nan, found, UNDECIDED, claim.numbers,
            claim.gating, NO_TEST, note=note,
        )  # fmt: skip
    mean = float(column.mean())
    fails = min(1.0, evidence.fails * siblings)
    verdict = HOLDS if evidence.holds <= level else FAILS if fails <= level else UNDECIDED
    p = math.nan if len(column) == 1 else evidence.holds if mean > 0 or verdict == HOLDS else fails
    told = [f"the closest rival is {claim.rivals[evidence.decisive]}"] * (len(claim.rivals) > 1)
    told += [claim.note] * bool(claim.note)
    method = evidence.test.method
    needed = None
    if verdict == UNDECIDED and claim.gating and len(column) > 1:
        spread, supported = deviation(column), mean > 0 or (mean == 0 and claim.tie_holds)
        own = level if supported else level / siblings / len(claim.rivals)
        if spread:
            seen = math.copysign(smallest_effect(spread, len(column), own), mean)
            needed = seeds_for(abs(mean), spread, own)
            told.append(f"{len(column)} seeds see a margin of {show(seen, claim.scale)} (80% power)")
        else:  # decided by signs
            needed = math.ceil(-math.log2(own))
        told.append(f"{f'about {needed}' if needed else f'more than {MOST_SEEDS}'} seeds would decide this one")
    if method == SIGN_FLIPS and claim.gating and not math.isfinite(evidence.test.low):
        told.append("too few seeds for an interval by sign flips")
    return Clause(
        claim.id, claim.sentence, claim.scale, margins, mean, evidence.test.low, evidence.test.high, len(column),
        verdict, claim.numbers, claim.gating, method, p, level, claim.rivals[evidence.decisive], needed,
        "; ".join(told),
    )  # fmt: skip
