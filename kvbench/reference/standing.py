"""Standing: each finding's verdict on each recipe, beside the recorded one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kvbench.findings.clauses import Clause, Verdict
from kvbench.findings.judge import BY_SIGN, Judgement, conclude
from kvbench.reference.changes import Change
from kvbench.reference.status import Status
from kvbench.reference.store import Reference

WORST = (Status.MISSING, Status.CHANGED, Status.NOT_CONFIRMED, Status.NOTED)


@dataclass(frozen=True)
class Standing:
    """A finding on a recipe, and what became of its recorded verdict.

    Args:
        judgement: the fresh one.
        recorded: the recorded verdict of each clause; empty: none is recorded, or there is no reference.
        changes: how fresh clauses differ from it; what came out as recorded, or repeats recorded seeds, does not.
        decisive: the id of the clause to show, which decides the verdict that stands.
        compared: whether there was a reference to compare with.
    """

    judgement: Judgement
    recorded: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    decisive: str = ""
    compared: bool = True

    @property
    def status(self) -> Status | None:
        """That of the clause that differs most; None without a reference."""
        found = {change.status for change in self.changes}
        return next((status for status in WORST if status in found), Status.RECORDED) if self.compared else None

    @property
    def verdict(self) -> Verdict:
        """The recorded verdict where it stands, else the fresh one."""
        return conclude(self.recorded) if self.status == Status.RECORDED else self.judgement.verdict

    @property
    def words(self) -> str:
        """In a few words: ``holds, as recorded``, ``fails, was mixed 1/4``, ``holds, not recorded``."""
        fresh = counted(self.judgement.verdict, [clause.verdict for clause in self.judgement.gating])
        if self.status is None:
            return fresh
        if not self.recorded:
            return f"{fresh}, not recorded"
        old = counted(conclude(self.recorded), self.recorded)
        if self.status == Status.RECORDED:
            return f"{old}, {Status.RECORDED}"
        if conclude(self.recorded) != self.judgement.verdict:
            return f"{fresh}, was {old}"
        return f"{fresh}, {self.status}"

    @property
    def alone(self) -> str:
        """What this run's own seeds say: ``undecided (2 of 4)``."""
        return f"{self.judgement.verdict} ({self.judgement.held}){'' if self.judgement.tested else BY_SIGN}"

    @property
    def before(self) -> str:
        """What is recorded, likewise."""
        held = sum(clause == Verdict.HOLDS for clause in self.recorded)
        return f"{conclude(self.recorded)} ({held} of {len(self.recorded)})" if self.recorded else "-"

    @property
    def clause(self) -> Clause | None:
        """The fresh clause to show."""
        mine = {clause.id: clause for clause in self.judgement.gating}
        return mine.get(self.decisive, self.judgement.deciding)


def counted(verdict: Verdict, clauses: Collection[str]) -> str:
    """A verdict, with the count of clauses that hold where they disagree."""
    held = sum(clause == Verdict.HOLDS for clause in clauses)
    return f"{verdict} {held}/{len(clauses)}" if verdict == Verdict.MIXED else str(verdict)


def standings(
    reference: Reference | None, judgements: Iterable[Judgement], changes: Sequence[Change]
) -> list[Standing]:
    """Put judgements beside the recorded verdicts.

    Args:
        reference: None: there is nothing to compare with.
        judgements: all that `kvbench.findings.judge.judge` says about one or more findings.
        changes: what `kvbench.reference.changes.verdict_changes` says about them.
    """
    if reference is None:
        return [Standing(judgement, compared=False) for judgement in judgements]
    rows = reference.recorded
    known = {(j.finding.id, j.recipe): j.deciding for j in reference.judgements}
    found = []
    for judgement in judgements:
        key = judgement.finding.id, judgement.recipe
        recorded = rows.loc[(rows["finding"] == key[0]) & (rows["recipe"] == key[1]), "verdict"]
        mine = tuple(change for change in changes if (change.finding, change.recipe) == key)
        deciding = known.get(key) if not mine else None
        found.append(Standing(judgement, tuple(map(str, recorded)), mine, deciding.id if deciding else ""))
    return found
