"""The history frame: one row per configuration, seed and epoch. Every result, published or fresh, is such a frame."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import LONGEST_NAME, read_table, write_whole

KEYS = ("configuration", "seed", "epoch")
LOSSES = ("train_loss", "val_loss")
SHARES = ("val_accuracy", "agreement")  # between 0 and 1
METRICS = ("train_loss", "val_loss", "val_accuracy", "agreement", "seconds")
COLUMNS = (*KEYS, *METRICS)
NEEDED = ("train_loss", "val_accuracy")  # what every fresh run measures
# What is read: far above any use, and far below what would exhaust a machine that judges it.
MOST_NAMED = 10_000  # rows that are missing or too many
MOST_EPOCHS, MOST_SEEDS, MOST_CONFIGURATIONS = 100_000, 1000, 1000
DIGITS = "%.6g"  # of a number in a file: stable in a diff, finer than any margin


def frame(rows: Iterable[Mapping[str, Any]], where: str = "history") -> pd.DataFrame:
    """Build a history frame from rows.

    Args:
        rows: one mapping per epoch with the keys ``configuration``, ``seed``, ``epoch`` (from 1) and any of `METRICS`:
            mean losses in nat, shares in [0, 1], ``seconds`` per epoch of training. A metric that is left out or None
            was not measured (NaN).
        where: what the rows are, for the message of an error.

    Returns:
        A frame with `COLUMNS`; configurations in the order of their first row, seeds and epochs sorted inside.

    Raises:
        UserError: a column is unknown or missing, or a value has the wrong type.
    """
    whole, given = [], dict[str, None]()
    for row in rows:  # before there is a frame, which has a cell for every row and every name in any of them
        whole.append({str(name): value for name, value in row.items()})
        given |= dict.fromkeys(whole[-1])
        _need_columns(given, where, lacking=False)
    if whole:
        _need_columns(given, where)
    return _typed(pd.DataFrame(whole, columns=list(given), dtype=object), where)  # as they are: pandas may overflow


def check(histories: pd.DataFrame, where: str, *, fresh: bool = False, finite: bool = True) -> pd.DataFrame:
    """Return ``histories`` typed and sorted, as `frame` does, if every row is possible.

    ``fresh`` asks for what a run of ours always measures: finite training loss and accuracy in every row.
    ``finite=False`` lets infinite values pass, which a run that diverges leaves.

    Raises:
        UserError: names ``where``, the column, the row and what is valid.
    """
    typed = _typed(histories, where)
    if typed.empty:
        raise UserError(f"{where} holds no rows; a history has one row per configuration, seed and epoch.")
    lengths = typed["configuration"].str.len()
    bad = (lengths == 0) | (lengths > LONGEST_NAME)
    _refuse(typed, bad, where, "configuration", f"a name of up to {LONGEST_NAME} characters")
    _refuse(typed, typed["seed"] < 0, where, "seed", "an integer from 0")
    bad = (typed["epoch"] < 1) | (typed["epoch"] > MOST_EPOCHS)
    _refuse(typed, bad, where, "epoch", f"an integer from 1 to {MOST_EPOCHS:,}")
    for what, count, most in (
        ("configurations", typed["configuration"].nunique(), MOST_CONFIGURATIONS),
        ("seeds", typed["seed"].nunique(), MOST_SEEDS),
    ):
        if count > most:
            raise UserError(f"{where} has {count:,} {what}; at most {most:,} are read.")
    for column in METRICS if finite else ():
        _refuse(typed, np.isinf(typed[column]), where, column, "a finite number")
    for column in (*LOSSES, "seconds"):
        _refuse(typed, typed[column] < 0, where, column, "a number from 0")
    for column in SHARES:
        _refuse(typed, (typed[column] < 0) | (typed[column] > 1), where, column, "a share between 0 and 1")
    for column in NEEDED if fresh else ():
        _refuse(typed, typed[column].isna(), where, column, "a finite number")
    twice = typed.duplicated(list(KEYS))
    if twice.any():
        raise UserError(f"{where} has {_name(typed[twice].iloc[0])} twice; every row must be there once.")
    return typed


def read(path: Path) -> pd.DataFrame:
    """Read and check a history frame from a CSV file; raises `UserError` if it can't be read or is not one."""
    columns, rows = read_table(path)
    return check(pd.DataFrame(rows, columns=columns, dtype=object), str(path))


def write(histories: pd.DataFrame, path: Path) -> None:
    """Check a history frame and write it as CSV, whole or not at all; `read` gives back the same file's numbers."""
    checked = check(histories, str(path))
    with write_whole(path) as aside:
        checked.to_csv(aside, index=False, float_format=DIGITS, lineterminator="\n")


def rounded(histories: pd.DataFrame) -> pd.DataFrame:
    """The same frame with its numbers as a file holds them."""
    return histories.assign(**{metric: [float(DIGITS % cell) for cell in histories[metric]] for metric in METRICS})


def configurations(histories: pd.DataFrame) -> list[str]:
    """The configurations of a frame, in its order."""
    return [str(name) for name in histories["configuration"].unique()]


def seeds(histories: pd.DataFrame) -> list[int]:
    """The seeds of a frame, sorted."""
    return sorted(int(seed) for seed in histories["seed"].unique())


def epochs(histories: pd.DataFrame) -> list[int]:
    """The epochs of a frame, sorted."""
    return sorted(int(epoch) for epoch in histories["epoch"].unique())


def incomplete(
    histories: pd.DataFrame, names: Sequence[str], seed_list: Sequence[int], epoch_list: Sequence[int]
) -> list[str]:
    """Compare a frame with the full grid of configurations, seeds and epochs.

    Returns:
        One phrase per difference, in both directions (``lr_Model1 lacks seed 2, epochs 4, 5``); empty if there is none.
    """
    words = []
    size = len(names) * len(set(seed_list)) * len(set(epoch_list))
    if abs(size - len(histories)) > MOST_NAMED:
        return [f"{size:,} rows are expected, {len(histories):,} are there"]
    present = {(str(c), int(s), int(e)) for c, s, e in zip(*(histories[key] for key in KEYS), strict=True)}
    expected = {(c, s, e) for c in names for s in seed_list for e in epoch_list}
    order = {name: place for place, name in enumerate([*names, *configurations(histories)])}
    for verb, rows in (("lacks", expected - present), ("has, beyond what is expected,", present - expected)):
        whole = present if verb == "lacks" else expected
        for name in sorted({row[0] for row in rows}, key=lambda name: order[name]):
            if not any(row[0] == name for row in whole):
                words.append(f"{name} {'is missing' if verb == 'lacks' else 'is there but not expected'}")
                continue
            for seed in sorted({row[1] for row in rows if row[0] == name}):
                mine = sorted(row[2] for row in rows if row[:2] == (name, seed))
                if any(row[:2] == (name, seed) for row in whole):
                    words.append(f"{name} {verb} seed {seed}, epoch{'s' * (len(mine) > 1)} {_join(mine)}")
                else:
                    words.append(f"{name} {verb} seed {seed}")
    return words


def _join(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _typed(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    """Columns in order with their types, rows sorted; raises `UserError` for columns or values that don't fit."""
    given = [str(column) for column in raw.columns]
    _need_columns(given, where, lacking=bool(given))
    if len(set(given)) < len(given):
        raise UserError(f"{where} has a column twice; a history has {_join(COLUMNS)}.")
    columns: dict[str, Any] = {"configuration": raw.get("configuration", pd.Series(dtype=str)).map(_text)}
    for column in KEYS[1:]:
        columns[column] = _numbers(raw, column, where, "an integer", whole=True)
    for column in METRICS:
        columns[column] = _numbers(raw, column, where, "a number, or empty if it was not measured")
    typed = pd.DataFrame(columns, columns=list(COLUMNS))
    places: dict[Hashable, int] = {name: place for place, name in enumerate(typed["configuration"].unique())}
    typed = typed.assign(place=typed["configuration"].map(places)).sort_values(
        ["place", "seed", "epoch"], kind="stable"
    )
    return typed.drop(columns="place").reset_index(drop=True)


def _need_columns(given: Collection[str], where: str, *, lacking: bool = True) -> None:
    """Raise `UserError` for columns that no history has and, if ``lacking``, for those that every one needs."""
    unknown = [column for column in given if column not in COLUMNS]
    missing = [column for column in (*KEYS, *NEEDED) if column not in given] if lacking else []
    for fault, names in (("has unknown columns", unknown), ("lacks the columns", missing)):
        if names:
            raise UserError(f"{where} {fault} {shorten(names)}; a history has {_join(COLUMNS)}.")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _numbers(raw: pd.DataFrame, column: str, where: str, valid: str, *, whole: bool = False) -> Any:
    """One column as floats (NaN where empty), or as integers if ``whole``."""
    if column not in raw:
        return np.full(len(raw), np.nan) if not whole else np.zeros(len(raw), dtype=np.int64)
    numbers = np.array([_number(value) for value in raw[column]], dtype=np.float64)
    for row, value in enumerate(raw[column]):
        number = float(numbers[row])
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        fits = number.is_integer() and abs(number) < 2**53 if whole else empty or not math.isnan(number)
        if not fits:
            raise UserError(f"{where}, row {row + 1}: {column} is {value!r}; valid is {valid}.")
    return numbers.astype(np.int64) if whole else numbers


def _number(value: object) -> float:
    if isinstance(value, (str, int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return float("nan")
    return float("nan")


def _refuse(typed: pd.DataFrame, bad: Any, where: str, column: str, valid: str) -> None:
    if bad.any():
        row = typed[bad].iloc[0]
        raise UserError(f"{where}, {_name(row)}: {column} is {row[column]!s}; valid is {valid}.")


def _name(row: pd.Series[Any]) -> str:
    return f"{row['configuration']} seed {row['seed']} epoch {row['epoch']}"
