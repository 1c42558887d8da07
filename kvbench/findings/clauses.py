"""Clauses: one comparison each, with margins per seed, tests, an interval and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

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
from kvbench.utils.text import number

RATIO, DIFFERENCE, EPOCHS = "ratio", "difference", "epochs"  # what a margin is in
BRIEF = {"area": "mean loss", "spearman": "correlation"}  # what ends the id of a clause, where that says too little


class Verdict(str, Enum):
    """What is concluded of a clause, or of a finding on a recipe; as verdicts.csv has it."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    MIXED = "mixed"  # of a finding: some clauses hold, some fail

    __str__ = str.__str__


@dataclass(frozen=True)
class Claim:
    """A comparison before it is tested.

    Args:
        id: stable inside the finding and recipe, such as ``mlp-loss``.
        sentence: what is claimed, with any limit in it.
        scale: ``ratio`` (margins are natural logarithms), ``difference`` or ``epochs``.
        seeds: the S seeds of the margins.
        margins: (S, P), one column a rival; positive supports the claim, which needs every column's mean above 0.
        rivals: the P columns' names.
        values: what was compared, mean over the seeds, as text: the subject's own under its name, then the rivals'.
        tie_holds: whether no difference at all, at any seed, supports the claim.
        gating: whether it counts for the finding's verdict; the others are only reported.
        contradicted: every seed by itself speaks against it, though the margins are only bounds.
        note: why it could not be measured as usual, if so.
        some: one column's mean above 0 is enough.
    """

    id: str
    sentence: str
    scale: str
    seeds: tuple[int, ...]
    margins: Floats
    rivals: tuple[str, ...]
    values: Mapping[str, str]
    tie_holds: bool = False
    gating: bool = True
    contradicted: bool = False
    note: str = ""
    some: bool = False


@dataclass(frozen=True)
class Evidence:
    """A claim with its tests.

    Args:
        claim: what was tested.
        decisive: the column whose mean is least sure to be above 0; it stands for the claim in what is reported. Where
            one column is enough: the surest.
        margins: (S,) that column.
        test: of the decisive column; None where a margin is not a number.
        holds: p-value against "some column's mean is at most 0": the largest of the columns' (intersection-union).
        fails: p-value against "every column's mean is at least 0": the smallest of the columns' times P (Bonferroni).
            Where one column is enough, the two change places.
    """

    claim: Claim
    decisive: int
    margins: Floats
    test: MeanTest | None = None
    holds: float = math.nan
    fails: float = math.nan


def evaluate_claim(claim: Claim, finest: float) -> Evidence:
    """Test a claim's margins from both sides; ``finest`` is the smallest level that a p-value has to reach."""
    # Rounded so that 0.646 - 0.636 - 0.01 is the tie that it is; + 0.0 turns -0 into 0.
    margins = np.round(claim.margins, 12) + 0.0
    means, count = margins.mean(axis=0), len(claim.seeds)
    last = int((np.argmax if claim.some else np.argmin)(np.nan_to_num(means)))
    if not np.isfinite(margins).all():
        return Evidence(claim, last, margins[:, last])
    tests = [mean_test(column, finest) for column in margins.T]
    if count == 1:
        supported = means[last] > 0 or (claim.tie_holds and means[last] == 0)
        return Evidence(claim, last, margins[:, last], tests[last], float(not supported), float(supported))
    sure = without_spread(count)
    if claim.contradicted:
        return Evidence(claim, last, margins[:, last], tests[last], 1.0, sure)
    # No difference at all, at any seed, is a tie: of the side that the claim gives ties to.
    tied = (margins == 0).all(axis=0)
    above = np.where(tied, sure if claim.tie_holds else 1.0, [test.above for test in tests])
    below = np.where(tied, 1.0 if claim.tie_holds else sure, [test.below for test in tests])
    decisive = int(np.lexsort((means, -above))[-1 if claim.some else 0])
    one, all_of = (above, below) if claim.some else (below, above)
    sides = min(1.0, float(one.min()) * len(tests)), float(all_of.max())
    holds, fails = sides if claim.some else sides[::-1]
    return Evidence(claim, decisive, margins[:, decisive], tests[decisive], holds, fails)


@dataclass(frozen=True)
class Clause:
    """One comparison of a finding, judged.

    Args:
        id, sentence, scale, values, gating: the claim's.
        margins: per seed, against the rival that decides; positive supports the clause.
        margin, low, high: their mean and its 95% interval; infinite bounds for one seed, NaN if a number is missing.
        n: seeds with a margin.
        verdict: holds, fails or undecided.
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
    verdict: Verdict
    values: Mapping[str, str]
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

    def brief(self, names: Mapping[str, str] | None = None) -> str:
        """What was compared, in a few words, with the rival that decides: ``loss linear 0.264, mlp 0.913``.

        ``names`` are what configurations are called, where that is not their own name.
        """
        last = self.id.rpartition("-")[2]
        what = BRIEF.get(last, last) if last.isidentifier() else self.id
        sides, parts, before = list(self.values), list[str](), ""
        decisive = [rival for rival in sides[1:] if rival == self.rival]
        for side in (*sides[:1], *decisive):
            name = (names or {}).get(side, side)
            parts.append(self.values[side] if name == before else f"{name} {self.values[side]}")
            before = name
        if sides[1:] and not decisive:  # whoever is the best at each seed
            parts.append(f"margin {format_margin(self.margin, self.scale)}")
        return f"{what} {', '.join(parts)}"

    @property
    def numbers(self) -> str:
        """What was compared, in words: ``0.264 (linear), 0.913 (mlp)``."""
        return ", ".join(f"{value} ({name})" if name else value for name, value in self.values.items())

    def describe(self) -> str:
        """One line: verdict, sentence, numbers, margin with its interval."""
        uncounted = "" if self.gating else " (for information)"
        return f"{self.verdict:<9}  {self.id}{uncounted}: {self.sentence}: {self.numbers}; {self.describe_margin()}"

    def describe_margin(self) -> str:
        """The mean margin with interval, n and test, for the reader: log ratios as ratios."""
        if math.isnan(self.margin):
            return self.note
        text = f"margin {format_margin(self.margin, self.scale)}"
        if self.n == 1:
            text += ", one seed: no interval"
        else:
            if math.isfinite(self.low):
                low, high = (format_margin(bound, self.scale) for bound in (self.low, self.high))
                text += f", 95% interval {low} to {high}"
            text += f", {self.n} seeds"
            text += f", p = {self.p:.2g} by {self.method} at level {self.level:.2g}" if self.gating else ""
        return f"{text}; {self.note}" if self.note else text


def format_margin(margin: float, scale: str) -> str:
    """A margin for the reader: ``1.25x`` for a log ratio, else with its sign."""
    if math.isnan(margin):
        return "unknown"
    if scale == RATIO:
        return number(math.exp(min(margin, 700)), ".3g") + "x"  # exp overflows above 709
    return number(margin, "+.2f") + " epochs" if scale == EPOCHS else number(margin, "+.4f")


def decide(evidence: Evidence, level: float, siblings: int) -> Clause:
    """Give the verdict at a one-sided ``level``.

    A clause fails at ``level / siblings``, since a finding of that many clauses fails as a whole if any of them does;
    it holds as a whole only if all do, so that each may hold at ``level``.
    """
    claim, column, test = evidence.claim, evidence.margins, evidence.test
    margins = dict(zip(claim.seeds, column.tolist(), strict=True))
    if test is None:
        lost = [str(s) for s, row in zip(claim.seeds, claim.margins, strict=True) if not np.isfinite(row).all()]
        where = f"seed {', '.join(lost)}" if len(lost) < len(column) else "any seed"
        nan = math.nan
        return Clause(
            claim.id, claim.sentence, claim.scale, margins, nan, nan, nan, len(column) - len(lost), Verdict.UNDECIDED,
            claim.values, claim.gating, NO_TEST, note=f"a number is missing or not finite for {where}",
        )  # fmt: skip
    mean = float(column.mean())
    fails = min(1.0, evidence.fails * siblings)
    verdict = Verdict.HOLDS if evidence.holds <= level else Verdict.FAILS if fails <= level else Verdict.UNDECIDED
    p = math.nan if len(column) == 1 else evidence.holds if mean > 0 or verdict == Verdict.HOLDS else fails
    rival = claim.rivals[evidence.decisive]
    surest = "ahead of" if claim.some else "the closest rival is"
    notes = [f"{surest} {rival}"] if len(claim.rivals) > 1 else []
    notes += [claim.note] if claim.note else []
    needed = None
    if verdict == Verdict.UNDECIDED and claim.gating and len(column) > 1:
        spread, supported = deviation(column), mean > 0 or (mean == 0 and claim.tie_holds)
        one_of = len(claim.rivals) if supported == claim.some else 1  # columns, any of which decides
        own = (level if supported else level / siblings) / one_of
        if spread:
            seen = math.copysign(smallest_effect(spread, len(column), own), mean)
            needed = seeds_for(abs(mean), spread, own)
            notes.append(f"{len(column)} seeds see a margin of {format_margin(seen, claim.scale)} (80% power)")
        else:  # decided by signs
            needed = math.ceil(-math.log2(own))
        notes.append(f"{f'about {needed}' if needed else f'more than {MOST_SEEDS}'} seeds would decide this one")
    if test.method == SIGN_FLIPS and claim.gating and not math.isfinite(test.low):
        notes.append("too few seeds for an interval by sign flips")
    return Clause(
        claim.id, claim.sentence, claim.scale, margins, mean, test.low, test.high, len(column), verdict, claim.values,
        claim.gating, test.method, p, level, rival, needed, "; ".join(notes),
    )  # fmt: skip
