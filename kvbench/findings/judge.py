"""Judging: pure functions from histories to the verdict on every finding."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbench.findings.clauses import Clause, Evidence, Verdict, decide, evaluate_claim
from kvbench.findings.curves import Costs, Runs
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.stats.significance import SIGN, holm

if TYPE_CHECKING:
    import pandas as pd

BY_SIGN = " by sign (one seed, no test)"
FAMILY_ERROR = 0.01  # chance that any of a run's judgements is wrongly decided, over all of them together


@dataclass(frozen=True)
class Judgement:
    """A finding's verdict for one recipe, or for two that it compares, with the clauses behind it."""

    finding: Finding
    recipe: str
    clauses: tuple[Clause, ...]
    notes: tuple[str, ...] = ()
    judged_as: str = ""  # the finding, made exact

    @property
    def gating(self) -> tuple[Clause, ...]:
        """The clauses that count."""
        return tuple(clause for clause in self.clauses if clause.gating)

    @property
    def held(self) -> str:
        """How many of them hold: ``3 of 4``."""
        return f"{sum(clause.verdict == Verdict.HOLDS for clause in self.gating)} of {len(self.gating)}"

    @property
    def verdict(self) -> Verdict:
        """Holds if all clauses hold, fails if all fail, mixed if some do either, else undecided."""
        return conclude(clause.verdict for clause in self.gating)

    @property
    def deciding(self) -> Clause | None:
        """The clause to show where there is room for one: the surest that fails, else the least sure one."""

        def doubt(clause: Clause) -> tuple[bool, float, float]:
            lost = math.isnan(clause.margin)
            return lost, 0.0 if math.isnan(clause.p) else clause.p, 0.0 if lost else -abs(clause.margin)

        for verdict, choose in ((Verdict.FAILS, min), (Verdict.UNDECIDED, max), (Verdict.HOLDS, max)):
            if some := [clause for clause in self.gating if clause.verdict == verdict]:
                return choose(some, key=doubt)
        return None

    @property
    def tested(self) -> bool:
        """Whether there was a test: one seed has a sign and no test."""
        return any(clause.method != SIGN for clause in self.gating)

    @property
    def summary(self) -> str:
        """The verdict with its count: ``mixed: 4 of 8 clauses hold, 3 fail, 1 undecided``."""
        text = f"{self.verdict}{'' if self.tested else BY_SIGN}: {self.held} clauses hold"
        for verdict, words in ((Verdict.FAILS, "fail"), (Verdict.UNDECIDED, "undecided")):
            if count := sum(clause.verdict == verdict for clause in self.gating):
                text += f", {count} {words}"
        return text

    def describe(self) -> str:
        """The sentence, the verdict and every clause with its numbers, over several lines."""
        head = f"{self.finding.id} ({self.recipe}): {self.summary}\n  sentence: {self.finding.sentence}"
        lines = [f"  judged as: {self.judged_as}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join([head, *lines, *(f"  {clause.describe()}" for clause in self.clauses)])


def conclude(clauses: Iterable[str]) -> Verdict:
    """The verdict of a finding from its clauses': of all, where they agree; else mixed or undecided.

    Example:
        >>> str(conclude(["holds", "fails", "undecided"])), str(conclude(["holds", "undecided"]))
        ('mixed', 'undecided')
    """
    verdicts = {Verdict(clause) for clause in clauses}
    if len(verdicts) == 1:
        return verdicts.pop()
    return Verdict.MIXED if {Verdict.HOLDS, Verdict.FAILS} <= verdicts else Verdict.UNDECIDED


def missing(row: Finding, histories: pd.DataFrame, design: Design) -> dict[str, list[str]]:
    """Name of each recipe on which a finding can't be judged -> what ``histories`` miss for it; empty if all can."""
    runs = Runs.of(histories)
    absent = {recipe: runs.missing(needed) for recipe, needed in design.needs(row).items()}
    return {recipe: names for recipe, names in absent.items() if names}


@np.errstate(all="ignore")  # what is no number is NaN, whatever the caller's settings
def judge(
    histories: pd.DataFrame,
    design: Design,
    costs: Costs | None = None,
    chosen: Iterable[Finding] | None = None,
    *,
    error: float = FAMILY_ERROR,
) -> list[Judgement]:
    """Judge a study's findings on every recipe whose configurations are all there; `missing` tells about the others.

    All judgements of a call are one family: they share an ``error`` by Holm's procedure, each with the p-value of
    its better side. A judgement holds as a whole where all its clauses do (intersection-union), so its clauses are
    tested at its own level; that one of them fails is tested at that level divided by their number. The order of the
    rows and of the configurations decides nothing.

    Args:
        histories: a history frame with any number of seeds and epochs. Margins are paired by seed; the last epoch is
            the last that all needed runs have.
        design: the study's: its configurations, groups and findings.
        costs: FLOPs per sample of each configuration, to report the time to the target in FLOPs as well; left out
            where one is unknown.
        chosen: some of the study's findings; None: all.
        error: chance that any of them is wrongly decided.

    Raises:
        UserError: the frame holds what no history can.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> judgements = judge(load_reference(Path("expected"), "imagenet", STUDY.design).histories, STUDY.design)
        >>> judgements[0].summary
        'holds by sign (one seed, no test): 2 of 2 clauses hold'
    """
    runs = Runs.of(histories)
    finest = error / max(1, sum(len(design.scopes(row)) for row in design.findings.values()))
    evaluated: list[tuple[Finding, str, tuple[str, ...], list[Evidence], int]] = []
    for row in design.findings.values() if chosen is None else chosen:
        for recipe, blocks in design.scopes(row).items():
            curves = runs.curves(design.groups, *blocks)
            if curves.epochs:
                claims = row.claims(curves, costs or {})
                siblings = sum(claim.gating for claim in claims)
                evidence = [evaluate_claim(claim, finest / siblings / len(claim.rivals)) for claim in claims]
                evaluated.append((row, recipe, curves.notes, evidence, siblings))
    levels = holm([_p_value(evidence) for *_, evidence, _ in evaluated], error)
    return [
        Judgement(
            row,
            recipe,
            tuple(decide(e, level, siblings if e.claim.gating else 1) for e in evidence),
            notes,
            row.describe(design.groups),
        )
        for (row, recipe, notes, evidence, siblings), level in zip(evaluated, levels, strict=True)
    ]


def _p_value(evidence: Iterable[Evidence]) -> float:
    """Of a judgement: that all its clauses hold, or that one fails, whichever is the surer."""
    gating = [e for e in evidence if e.claim.gating]
    tested = [e for e in gating if e.test is not None]
    holds = max(e.holds for e in gating) if len(tested) == len(gating) else 1.0
    return min(holds, min((e.fails for e in tested), default=1.0) * len(gating))
