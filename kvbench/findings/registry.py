"""Judging: pure functions from histories to the verdict on every finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbench.findings.clauses import Clause, Evidence, Verdict, decide, evaluate_claim
from kvbench.findings.curves import Runs
from kvbench.findings.finding import RECIPES, Costs, Finding
from kvbench.findings.kv_memory import FINDINGS
from kvbench.stats.significance import SIGN, holm
from kvbench.utils.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BY_SIGN", "FAMILY_ERROR", "FINDINGS", "Judgement", "finding", "judge", "missing"]

BY_SIGN = " by sign (one seed, no test)"
FAMILY_ERROR = 0.01  # chance that any of a run's judgements is wrongly decided, over all of them together


@dataclass(frozen=True)
class Judgement:
    """A finding's verdict for one recipe, with the clauses behind it."""

    finding: Finding
    recipe: str
    clauses: tuple[Clause, ...]
    notes: tuple[str, ...] = ()

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
        verdicts = {clause.verdict for clause in self.gating}
        if len(verdicts) == 1:
            return verdicts.pop()
        return Verdict.MIXED if {Verdict.HOLDS, Verdict.FAILS} <= verdicts else Verdict.UNDECIDED

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
        head = f"{self.finding.id} ({self.recipe}): {self.summary}\n  the source says: {self.finding.sentence}"
        lines = [f"  judged as: {self.finding.judged_as}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join([head, *lines, *(f"  {clause.describe()}" for clause in self.clauses)])


def finding(name: str) -> Finding:
    """Look a finding up; raises `UserError` naming the valid ones."""
    if name not in FINDINGS:
        raise unknown("finding", name, FINDINGS)
    return FINDINGS[name]


def missing(row: Finding, histories: pd.DataFrame) -> dict[str, list[str]]:
    """Name of each recipe on which a finding can't be judged -> what ``histories`` miss for it; empty if all can."""
    runs = Runs.of(histories)
    absent = {recipe: runs.missing(needed) for recipe, needed in row.needs().items()}
    return {recipe: names for recipe, names in absent.items() if names}


@np.errstate(all="ignore")  # what is no number is NaN, whatever the caller's settings
def judge(
    histories: pd.DataFrame, costs: Costs | None = None, chosen: Iterable[Finding] | None = None
) -> list[Judgement]:
    """Judge findings on every recipe whose configurations are all there; `missing` tells about the others.

    All judgements of a call are one family: they share `FAMILY_ERROR` by Holm's procedure, each with the p-value of
    its better side. A judgement holds as a whole where all its clauses do (intersection-union), so its clauses are
    tested at its own level; that one of them fails is tested at that level divided by their number. The order of the
    rows and of the configurations decides nothing.

    Args:
        histories: a history frame with any number of seeds and epochs. Margins are paired by seed; the last epoch is
            the last that all needed runs have.
        costs: FLOPs per sample of each configuration, to report the time to the target in FLOPs as well; left out
            where one is unknown.
        chosen: rows of `FINDINGS`; None: all.

    Raises:
        UserError: the frame holds what no history can.

    Example:
        >>> judgements = judge(load_reference(Path("expected"), "imagenet").histories)
        >>> judgements[0].summary
        'holds by sign (one seed, no test): 2 of 2 clauses hold'
    """
    runs = Runs.of(histories)
    prefixes = {name: prefix for prefix, name in RECIPES.items()}
    finest = FAMILY_ERROR / sum(len(row.needs()) for row in FINDINGS.values())
    evaluated: list[tuple[Finding, str, tuple[str, ...], list[Evidence], int]] = []
    for row in FINDINGS.values() if chosen is None else chosen:
        for recipe, needed in row.needs().items():
            curves = runs.curves(needed, prefixes.get(recipe, ""))
            if curves.epochs:
                claims = row.claims(curves, costs or {})
                siblings = sum(claim.gating for claim in claims)
                evidence = [evaluate_claim(claim, finest / siblings / len(claim.rivals)) for claim in claims]
                evaluated.append((row, recipe, curves.notes, evidence, siblings))
    levels = holm([_p_value(evidence) for *_, evidence, _ in evaluated], FAMILY_ERROR)
    return [
        Judgement(row, recipe, tuple(decide(e, level, siblings if e.claim.gating else 1) for e in evidence), notes)
        for (row, recipe, notes, evidence, siblings), level in zip(evaluated, levels, strict=True)
    ]


def _p_value(evidence: Iterable[Evidence]) -> float:
    """Of a judgement: that all its clauses hold, or that one fails, whichever is the surer."""
    gating = [e for e in evidence if e.claim.gating]
    tested = [e for e in gating if e.test is not None]
    holds = max(e.holds for e in gating) if len(tested) == len(gating) else 1.0
    return min(holds, min((e.fails for e in tested), default=1.0) * len(gating))
