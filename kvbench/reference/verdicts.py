"""Recorded verdicts: ``verdicts.csv``, one row per clause, and how fresh verdicts differ from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kvbench.findings.clauses import Clause, Verdict
from kvbench.findings.kv_memory import FINDINGS
from kvbench.findings.registry import FAMILY_ERROR, Judgement
from kvbench.reference.status import Status
from kvbench.results import history
from kvbench.stats.intervals import prediction_interval
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import atomic_write, read_table

if TYPE_CHECKING:
    from kvbench.reference.store import Reference

COLUMNS = ("finding", "recipe", "clause", "verdict", "margin", "low", "high", "n", "p", "level", "method")
NUMBERS = ("margin", "low", "high", "n", "p", "level")
REPEATS = 0.25  # of the recorded margins' spread: closer, a seed's margin is its recorded one again

Key = tuple[str, str, str]  # finding, recipe, clause


def frame(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """The gating clauses of ``judgements`` as rows with `COLUMNS`; margins as in `Clause`."""
    rows = [
        (*key, c.verdict.value, c.margin, c.low, c.high, c.n, c.p, c.level, c.method)
        for key, c in _clauses(judgements).items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(recorded: pd.DataFrame, path: Path) -> None:
    """Write the rows of `frame` as CSV, whole or not at all."""
    with atomic_write(path) as tmp:
        recorded.to_csv(tmp, index=False, float_format=history.DIGITS, lineterminator="\n")


def read(path: Path, *, strict: bool = True) -> pd.DataFrame:
    """Read what `write` wrote; raises `UserError` for a damaged file or, where ``strict``, an unknown finding."""
    columns, rows = read_table(path)
    if tuple(columns) != COLUMNS:
        raise UserError(f"{path} has the columns {', '.join(columns)}; valid: {', '.join(COLUMNS)}.")
    recorded = pd.DataFrame(rows, columns=columns, dtype=object)
    for column in NUMBERS:
        numbers = pd.to_numeric(recorded[column], errors="coerce").astype(float)
        if (np.isnan(numbers) & ~recorded[column].isin(["", "nan"])).any():
            raise UserError(f"{path}: {column} holds something that is not a number.")
        recorded[column] = numbers
    if not all(count.is_integer() and 0 <= count <= history.MOST_SEEDS for count in recorded["n"]):
        raise UserError(f"{path}: n holds something that is not a number of seeds, 0 to {history.MOST_SEEDS:,}.")
    recorded = recorded.astype({name: str for name in COLUMNS if name not in NUMBERS} | {"n": int})
    for name, recipe, verdict in zip(recorded["finding"], recorded["recipe"], recorded["verdict"], strict=True):
        for kind, value, valid in (
            ("verdict", verdict, [Verdict.HOLDS.value, Verdict.FAILS.value, Verdict.UNDECIDED.value]),
            ("finding", name, list(FINDINGS) if strict else [name]),
            ("recipe", recipe, list(FINDINGS[name].needs()) if strict and name in FINDINGS else [recipe]),
        ):
            if value not in valid:
                raise UserError(f"{path}: {unknown(kind, value, valid)}")
    if recorded.duplicated(["finding", "recipe", "clause"]).any():
        raise UserError(f"{path} has a clause twice; every clause must be there once.")
    return recorded


@dataclass(frozen=True)
class Change:
    """How a fresh verdict of one clause differs from the recorded one.

    ``status`` is changed, not confirmed, repeated, noted or missing: see `Status`.
    """

    finding: str
    recipe: str
    clause: str
    status: Status
    text: str

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return self.status.failed

    @property
    def repeated(self) -> bool:
        """Whether the recorded verdict stands because its own seeds came out the same."""
        return self.status == Status.REPEATED

    @property
    def unconfirmed(self) -> bool:
        """Whether more seeds are needed to tell."""
        return self.status == Status.NOT_CONFIRMED

    def describe(self) -> str:
        """One line."""
        return f"{self.finding} ({self.recipe}), {self.clause}: {self.text}"


def verdict_changes(
    reference: Reference, judgements: Sequence[Judgement], configurations: Collection[str] = ()
) -> list[Change]:
    """Compare fresh verdicts with the recorded ones of the same findings, in both directions.

    Args:
        reference: what `kvbench.reference.store.load` returns.
        judgements: all that `kvbench.findings.registry.judge` says about one or more findings.
        configurations: those of the fresh run: a recipe that has all it needs among them must have been judged.
    """
    due = {(j.finding.id, j.recipe) for j in judgements}
    for row in {j.finding.id: j.finding for j in judgements}.values():
        due |= {(row.id, recipe) for recipe, names in row.needs().items() if set(names) <= set(configurations)}
    fresh, recorded = _clauses(judgements), _clauses(reference.judgements)
    seeds = {seed for clause in fresh.values() for seed in clause.margins}
    known = seeds <= set(history.seeds(reference.histories))
    same = _clauses(reference.judgements_of(seeds)) if seeds and known else {}
    level = 1 - FAMILY_ERROR / max(1, len(recorded), len(fresh))
    columns = ("finding", "recipe", "clause", "verdict", "n", "margin")
    old = {
        (finding, recipe, clause): rest
        for finding, recipe, clause, *rest in zip(*(reference.recorded[name] for name in columns), strict=True)
        if (finding, recipe) in due
    }
    found = []
    for key, clause in fresh.items():
        if key not in old:
            text = f"not recorded; it is now {clause.verdict} ({clause.describe_margin()})"
            found.append(Change(*key, Status.MISSING, f"{text}; to record it: {reference.update_command}"))
            continue
        verdict, count, margin = old[key]
        status = _status(clause, verdict, count, margin, recorded.get(key), same.get(key), level)
        if status is None:
            continue
        text = f"recorded as {verdict}, now {clause.verdict}: {clause.sentence}: {clause.numbers}; "
        text += clause.describe_margin()
        if status in {Status.NOT_CONFIRMED, Status.REPEATED}:
            text += f"; add seeds: {reference.command} --kvbench-seeds {max(clause.n + 1, clause.needed or count)}"
        elif status == Status.CHANGED:
            text += f"; if this is meant to be: {reference.update_command}"
        found.append(Change(*key, status, text))
    for key, (verdict, *_) in old.items():
        if key not in fresh:
            text = f"recorded as {verdict}, and not judged though its configurations are there"
            found.append(Change(*key, Status.MISSING, f"{text}; to record it: {reference.update_command}"))
    return found


def _clauses(judgements: Iterable[Judgement]) -> dict[Key, Clause]:
    """The clauses that count, by what names them."""
    return {(j.finding.id, j.recipe, clause.id): clause for j in judgements for clause in j.gating}


def _status(
    fresh: Clause, verdict: str, count: int, margin: float, recorded: Clause | None, same: Clause | None, level: float
) -> Status | None:
    """How a clause's fresh verdict stands to the recorded one; None if it is the same.

    ``verdict``, ``count`` (seeds) and ``margin`` are recorded; ``recorded`` is the clause on all recorded seeds,
    ``same`` on those of the fresh run, where all of them are recorded; ``level`` that of the interval for its margin.
    """
    if math.isnan(fresh.margin) and not math.isnan(margin):
        return Status.CHANGED
    if fresh.verdict == verdict:
        return None
    if verdict == Verdict.UNDECIDED and not _drifted(recorded, fresh, level):
        return Status.NOTED
    # one seed has a sign but no interval: too little against a verdict that rests on several
    if fresh.verdict == Verdict.UNDECIDED or (fresh.n == 1 and count > 1):
        return Status.REPEATED if _repeats(same, fresh, recorded) else Status.NOT_CONFIRMED
    return Status.CHANGED


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
