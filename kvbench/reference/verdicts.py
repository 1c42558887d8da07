"""Recorded verdicts: ``verdicts.csv``, one row per clause."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kvbench.findings.clauses import Clause, Verdict
from kvbench.findings.design import Design
from kvbench.findings.judge import Judgement
from kvbench.results import history
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import atomic_write, read_table

COLUMNS = ("finding", "recipe", "clause", "verdict", "margin", "low", "high", "n", "p", "level", "method")
NUMBERS = ("margin", "low", "high", "n", "p", "level")

Key = tuple[str, str, str]  # finding, recipe, clause


def clauses(judgements: Iterable[Judgement]) -> dict[Key, Clause]:
    """The clauses that count, by what names them."""
    return {(j.finding.id, j.recipe, clause.id): clause for j in judgements for clause in j.gating}


def frame(judgements: Iterable[Judgement]) -> pd.DataFrame:
    """The gating clauses of ``judgements`` as rows with `COLUMNS`; margins as in `Clause`."""
    rows = [
        (*key, c.verdict.value, c.margin, c.low, c.high, c.n, c.p, c.level, c.method)
        for key, c in clauses(judgements).items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(recorded: pd.DataFrame, path: Path) -> None:
    """Write the rows of `frame` as CSV, whole or not at all."""
    with atomic_write(path) as tmp:
        recorded.to_csv(tmp, index=False, float_format=history.DIGITS, lineterminator="\n")


def read(path: Path, design: Design | None = None) -> pd.DataFrame:
    """Read what `write` wrote; raises `UserError` for a damaged file, or a finding or recipe that a design lacks."""
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
    known = {row.id: list(design.scopes(row)) for row in design.findings.values()} if design else {}
    for name, recipe, verdict in zip(recorded["finding"], recorded["recipe"], recorded["verdict"], strict=True):
        for kind, value, valid in (
            ("verdict", verdict, [Verdict.HOLDS.value, Verdict.FAILS.value, Verdict.UNDECIDED.value]),
            ("finding", name, known if design else [name]),
            ("recipe", recipe, known.get(name, [recipe])),
        ):
            if value not in valid:
                again = "" if kind == "verdict" else " Was it removed? `kvbench expected rejudge` judges again."
                raise UserError(f"{path}: {unknown(kind, value, valid)}{again}")
    if recorded.duplicated(["finding", "recipe", "clause"]).any():
        raise UserError(f"{path} has a clause twice; every clause must be there once.")
    return recorded
