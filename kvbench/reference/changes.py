"""How fresh verdicts differ from the recorded ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kvbench.findings.clauses import Clause, Verdict
from kvbench.findings.judge import FAMILY_ERROR, Judgement
from kvbench.reference.status import Status
from kvbench.reference.store import Reference
from kvbench.reference.verdicts import clauses
from kvbench.results import history
from kvbench.stats.intervals import prediction_interval

REPEATS = 0.25  # of the recorded margins' spread: closer, a seed's margin is its recorded one again


@dataclass(frozen=True)
class Change:
    """How a fresh verdict of one clause differs from the recorded one.

    ``status`` is changed, not confirmed, noted or missing: see `Status`.
    """

    finding: str
    recipe: str
    clause: str
    status: Status
    what: str  # in a few words
    numbers: str = ""
    todo: str = ""

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return self.status.failed

    @property
    def unconfirmed(self) -> bool:
        """Whether more seeds are needed to tell."""
        return self.status == Status.NOT_CONFIRMED

    @property
    def brief(self) -> str:
        """Which clause changed, and how."""
        return f"{self.finding} ({self.recipe}), {self.clause}: {self.what}"

    def describe(self) -> str:
        """The same with its numbers and what to do, in one line."""
        text = f"{self.brief}: {self.numbers}" if self.numbers else self.brief
        return f"{text}; {self.todo}" if self.todo else text


def verdict_changes(
    reference: Reference, judgements: Sequence[Judgement], configurations: Collection[str] = ()
) -> list[Change]:
    """Compare fresh verdicts with the recorded ones of the same findings, in both directions.

    Where a clause cannot tell, or tells more than the reference, but its seeds are recorded ones and each has its
    recorded margin again, the recorded verdict stands: nothing changed.

    Args:
        reference: what `kvbench.reference.store.load` returns.
        judgements: all that `kvbench.findings.judge.judge` says about one or more findings.
        configurations: those of the fresh run: a recipe that has all it needs among them must have been judged.
    """
    due = {(j.finding.id, j.recipe) for j in judgements}
    for row in {j.finding.id: j.finding for j in judgements}.values():
        needs = reference.design.needs(row).items()
        due |= {(row.id, recipe) for recipe, names in needs if set(names) <= set(configurations)}
    fresh, recorded = clauses(judgements), clauses(reference.judgements)
    seeds = {seed for clause in fresh.values() for seed in clause.margins}
    known = seeds <= set(history.seeds(reference.histories))
    same = clauses(reference.judgements_of(seeds)) if seeds and known else {}
    level = 1 - FAMILY_ERROR / max(1, len(recorded), len(fresh))
    columns = ("finding", "recipe", "clause", "verdict", "n", "margin")
    old = {
        (finding, recipe, clause): rest
        for finding, recipe, clause, *rest in zip(*(reference.recorded[name] for name in columns), strict=True)
        if (finding, recipe) in due
    }
    record = f"to record it: {reference.update_command}"
    found = []
    for key, clause in fresh.items():
        if key not in old:
            what = f"not recorded, now {clause.verdict}"
            found.append(Change(*key, Status.MISSING, what, clause.describe_margin(), record))
            continue
        verdict, count, margin = old[key]
        status = _status(clause, verdict, count, margin, recorded.get(key), same.get(key), level)
        if status is None:
            continue
        todo = ""
        if status == Status.NOT_CONFIRMED:
            todo = f"add seeds: {reference.command} --kvbench-seeds {max(clause.n + 1, clause.needed or count)}"
        elif status == Status.CHANGED:
            todo = f"if this is meant to be: {reference.update_command}"
        numbers = f"{clause.sentence}: {clause.numbers}; {clause.describe_margin()}"
        found.append(Change(*key, status, f"recorded as {verdict}, now {clause.verdict}", numbers, todo))
    for key, (verdict, *_) in old.items():
        if key not in fresh:
            what = f"recorded as {verdict}, and not judged though its configurations are there"
            found.append(Change(*key, Status.MISSING, what, todo=record))
    return found


def _status(
    fresh: Clause, verdict: str, count: int, margin: float, recorded: Clause | None, same: Clause | None, level: float
) -> Status | None:
    """How a clause's fresh verdict stands to the recorded one; None if it is the same or that one stands.

    ``verdict``, ``count`` (seeds) and ``margin`` are recorded; ``recorded`` is the clause on all recorded seeds,
    ``same`` on those of the fresh run, where all of them are recorded; ``level`` that of the interval for its margin.
    """
    if math.isnan(fresh.margin) and not math.isnan(margin):
        return Status.CHANGED
    if fresh.verdict == verdict:
        return None
    if verdict == Verdict.UNDECIDED and not _drifted(recorded, fresh, level):
        status = Status.NOTED
    # one seed has a sign but no interval: too little against a verdict that rests on several
    elif fresh.verdict == Verdict.UNDECIDED or (fresh.n == 1 and count > 1):
        status = Status.NOT_CONFIRMED
    else:
        return Status.CHANGED
    stands = recorded is not None and recorded.verdict == verdict and _repeats(same, fresh, recorded)
    return None if stands else status


def _drifted(recorded: Clause | None, fresh: Clause, level: float) -> bool:
    """Whether a margin against the same rival lies outside the prediction interval of the recorded ones."""
    if recorded is None or recorded.rival != fresh.rival or recorded.n < 2 or math.isnan(fresh.margin):
        return False
    low, high = prediction_interval(list(recorded.margins.values()), fresh.n, level)
    return not low <= fresh.margin <= high


def _repeats(same: Clause | None, fresh: Clause, recorded: Clause | None) -> bool:
    """Whether every fresh seed has its recorded margin, against the same rival, again."""
    if same is None or same.rival != fresh.rival or set(fresh.margins) != set(same.margins):
        return False
    allowed = REPEATS * recorded.spread if recorded is not None else 0.0
    return all(abs(margin - same.margins[seed]) <= allowed for seed, margin in fresh.margins.items())
