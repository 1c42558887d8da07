"""Recorded verdicts: ``verdicts.csv``, one row per clause, and how fresh verdicts differ from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kvbench.findings.clauses import FAILS, HOLDS, UNDECIDED, Clause
from kvbench.findings.registry import FAMILY_ERROR, FINDINGS, Judgement
from kvbench.results.history import DIGITS, MOST_SEEDS
from kvbench.stats.intervals import prediction_interval
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import read_table, write_whole

COLUMNS = ("finding", "recipe", "clause", "verdict", "margin", "low", "high", "n", "p", "level", "method")
NUMBERS = ("margin", "low", "high", "n", "p", "level")
CHANGED, NOT_CONFIRMED, REPEATED, NOTED, MISSING = "changed", "not confirmed", "repeated", "noted", "missing"
REPEATS = 0.25  # of the recorded margins' spread: closer, a seed's margin is its recorded one again


def frame(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """The gating clauses of ``judgements`` as rows with `COLUMNS`; margins as in `Clause`."""
    rows = [
        (j.finding.id, j.recipe, c.id, c.verdict, c.margin, c.low, c.high, c.n, c.p, c.level, c.method)
        for j in judgements
        for c in j.gating
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(recorded: pd.DataFrame, path: Path) -> None:
    """Write the rows of `frame` as CSV, whole or not at all."""
    with write_whole(path) as aside:
        recorded.to_csv(aside, index=False, float_format=DIGITS, lineterminator="\n")


def read(path: Path) -> pd.DataFrame:
    """Read what `write` wrote; raises `UserError` for a damaged file or an unknown finding, recipe or verdict."""
    columns, rows = read_table(path)
    if tuple(columns) != COLUMNS:
        raise UserError(f"{path} has the columns {', '.join(columns)}; valid: {', '.join(COLUMNS)}.")
    recorded = pd.DataFrame(rows, columns=columns, dtype=object)
    for column in NUMBERS:
        numbers = pd.to_numeric(recorded[column].replace("", "nan"), errors="coerce").astype(float)
        if (numbers.isna() & ~recorded[column].str.lower().isin(["", "nan"])).any():
            raise UserError(f"{path}: {column} holds something that is not a number.")
        recorded[column] = numbers
    if not all(count.is_integer() and 0 <= count <= MOST_SEEDS for count in recorded["n"]):
        raise UserError(f"{path}: n holds something that is not a number of seeds, 0 to {MOST_SEEDS:,}.")
    recorded = recorded.astype(
        {name: int if name == "n" else str for name in COLUMNS if name not in NUMBERS[:3] + NUMBERS[4:]}
    )
    for row in recorded.itertuples(index=False):
        name = str(row.finding)
        for kind, value, valid in (
            ("finding", name, list(FINDINGS)),
            ("recipe", str(row.recipe), list(FINDINGS[name].needs()) if name in FINDINGS else []),
            ("verdict", str(row.verdict), [HOLDS, FAILS, UNDECIDED]),
        ):
            if value not in valid:
                raise UserError(f"{path}: {unknown(kind, value, valid)}")
    if recorded.duplicated(["finding", "recipe", "clause"]).any():
        raise UserError(f"{path} has a clause twice; every clause must be there once.")
    return recorded


@dataclass(frozen=True)
class Change:
    """How a fresh verdict of one clause differs from the recorded one.

    ``kind`` is ``changed`` (holds against fails, or a verdict where there was none because the margin moved), ``not
    confirmed`` (recorded holds or fails, and the fresh seeds can't tell), ``repeated`` (they can't tell either, but
    they are recorded seeds and each has its recorded margin again), ``noted`` (it was recorded as undecided, and the
    margin is where it was) or ``missing`` (not recorded, or no longer judged).
    """

    finding: str
    recipe: str
    clause: str
    kind: str
    text: str

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return self.kind in {CHANGED, MISSING}

    @property
    def repeated(self) -> bool:
        """Whether the recorded verdict stands because its own seeds came out the same."""
        return self.kind == REPEATED

    @property
    def unconfirmed(self) -> bool:
        """Whether more seeds are needed to tell."""
        return self.kind == NOT_CONFIRMED

    def describe(self) -> str:
        """One line."""
        return f"{self.finding} ({self.recipe}), {self.clause}: {self.text}"


def changes(
    recorded: pd.DataFrame,
    judgements: Sequence[Judgement],
    run: str,
    update: str,
    configurations: Collection[str] = (),
    reference: Sequence[Judgement] = (),
    same: Sequence[Judgement] = (),
) -> list[Change]:
    """Compare fresh verdicts with the recorded ones of the same findings, in both directions.

    Args:
        recorded: rows of `read`.
        judgements: all that `kvbench.findings.registry.judge` says about one or more findings.
        run: the command that would run this again, to which options are added in a message.
        update: the command that would make a fresh run the reference.
        configurations: those of the fresh run: a recipe that has all it needs among them must have been judged.
        reference: the judgements of the recorded histories, to tell whether a margin moved.
        same: those of the recorded histories of the fresh run's own seeds, to tell whether they repeat.
    """
    needed = {(j.finding.id, recipe): set(names) for j in judgements for recipe, names in j.finding.needs().items()}
    due = {key for key, names in needed.items() if names <= set(configurations)}
    due |= {(j.finding.id, j.recipe) for j in judgements}
    old = {
        (str(row[0]), str(row[1]), str(row[2])): (str(row[3]), int(row[4]), float(row[5]))
        for row in recorded[["finding", "recipe", "clause", "verdict", "n", "margin"]].to_numpy()
        if (str(row[0]), str(row[1])) in due
    }
    fresh = {(j.finding.id, j.recipe, clause.id): clause for j in judgements for clause in j.gating}
    margins, own = (
        {(j.finding.id, j.recipe, clause.id): clause for j in side for clause in j.gating} for side in (reference, same)
    )
    level = 1 - FAMILY_ERROR / max(1, len(margins), len(fresh))
    record = f"to record it: {update}"
    found = []
    for key, clause in fresh.items():
        if key not in old:
            text = f"not recorded; it is now {clause.verdict} ({clause.describe_margin()}); {record}"
            found.append(Change(*key, MISSING, text))
        elif change := _change(*old[key], clause, run, update, moved=_moved(margins.get(key), clause, level)):
            kind, text = change
            again = kind == NOT_CONFIRMED and _repeats(
                own.get(key), clause, margins[key].spread if key in margins else 0.0
            )
            found.append(Change(*key, REPEATED if again else kind, text))
    for key, (verdict, *_) in old.items():
        if key not in fresh:
            text = f"recorded as {verdict}, and not judged though its configurations are there; {record}"
            found.append(Change(*key, MISSING, text))
    return found


def _change(
    verdict: str, count: int, margin: float, clause: Clause, run: str, update: str, *, moved: bool
) -> tuple[str, str] | None:
    """``(kind, text)`` if a clause's fresh verdict differs from the recorded one with its count of seeds and margin."""
    lost = math.isnan(clause.margin) and not math.isnan(margin)
    if clause.verdict == verdict and not lost:
        return None
    text = f"recorded as {verdict}, now {clause.verdict}: {clause.sentence}: {clause.numbers}; "
    text += clause.describe_margin()
    if verdict == UNDECIDED and not moved and not lost:
        return NOTED, text
    # one seed has a sign but no interval: too little against a verdict that rests on several
    if not lost and (clause.verdict == UNDECIDED or (clause.n == 1 and count > 1)):
        seeds = max(clause.n + 1, clause.needed or count)
        return NOT_CONFIRMED, f"{text}; add seeds: {run} --kvbench-seeds {seeds}"
    return CHANGED, f"{text}; if this is meant to be: {update}"


def _moved(recorded: Clause | None, fresh: Clause, level: float) -> bool:
    """Whether a margin against the same rival lies outside the prediction interval of the recorded ones."""
    if recorded is None or recorded.rival != fresh.rival or recorded.n < 2 or math.isnan(fresh.margin):
        return False
    low, high = prediction_interval(list(recorded.margins.values()), fresh.n, level)
    return not low <= fresh.margin <= high


def _repeats(recorded: Clause | None, fresh: Clause, spread: float) -> bool:
    """Whether every fresh seed has its recorded margin, against the same rival, again."""
    if recorded is None or recorded.rival != fresh.rival or set(fresh.margins) != set(recorded.margins):
        return False
    return all(abs(margin - recorded.margins[seed]) <= REPEATS * spread for seed, margin in fresh.margins.items())
