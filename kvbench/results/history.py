"""The history frame: one row per configuration, seed and epoch. Every result, published or fresh, is such a frame.

Example:
    >>> row = {"configuration": "linear", "seed": 0, "train_loss": 0.5, "val_accuracy": 0.7}
    >>> histories = history.frame([{**row, "epoch": epoch} for epoch in (1, 2)])
    >>> history.configurations(histories), history.seeds(histories), history.epochs(histories)
    (['linear'], [0], [1, 2])
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import LONGEST_NAME, atomic_write, read_table

KEYS = ("configuration", "seed", "epoch")
LOSSES = ("train_loss", "val_loss")
SHARES = ("val_accuracy", "agreement")  # between 0 and 1
METRICS = ("train_loss", "val_loss", "val_accuracy", "agreement", "seconds")
RESULTS = tuple(metric for metric in METRICS if metric != "seconds")  # what repeats when a run does
COLUMNS = (*KEYS, *METRICS)
NEEDED = ("train_loss", "val_accuracy")  # columns that every history has; an ablation of one's own may lack accuracy
ROUNDING = 1e-6  # nat; by so much a divergence of 0 may come out below 0 in float32
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

    Example:
        >>> row = {"configuration": "linear", "seed": 0, "epoch": 1, "train_loss": 0.9, "val_accuracy": 0.25}
        >>> frame([row])["train_loss"].tolist()
        [0.9]
    """
    records, given = [], dict[str, None]()
    for row in rows:  # before there is a frame, which has a cell for every row and every name in any of them
        records.append({str(name): value for name, value in row.items()})
        given |= dict.fromkeys(records[-1])
        _check_columns(given, where, required=False)
    if records:
        _check_columns(given, where)
    return _typed(pd.DataFrame(records, columns=list(given), dtype=object), where)  # object: pandas may overflow


def check(histories: pd.DataFrame, where: str, *, fresh: bool = False, finite: bool = True) -> pd.DataFrame:
    """Return ``histories`` typed and sorted, as `frame` does, if every row is possible.

    A row that is there twice with the same results, as a repeated test leaves it, counts once, with the smaller of its
    seconds.

    Args:
        histories: any number of rows, in any order.
        where: what they are, for the message of an error.
        fresh: require what a run of ours measures: training loss in every row, and accuracy in every row or in none.
        finite: False lets infinite values pass, which a run that diverged leaves.

    Raises:
        UserError: names ``where``, the column, the row and what is valid.
    """
    typed = _typed(histories, where)
    if typed.empty:
        raise UserError(f"{where} holds no rows; a history has one row per configuration, seed and epoch.")
    lengths = typed["configuration"].map(len)
    _refuse(typed, (lengths == 0) | (lengths > LONGEST_NAME), where, "configuration",
            f"a name of up to {LONGEST_NAME} characters")  # fmt: skip
    _refuse(typed, typed["seed"] < 0, where, "seed", "an integer from 0")
    _refuse(typed, (typed["epoch"] < 1) | (typed["epoch"] > MOST_EPOCHS), where, "epoch",
            f"an integer from 1 to {MOST_EPOCHS:,}")  # fmt: skip
    for key, most in (("configuration", MOST_CONFIGURATIONS), ("seed", MOST_SEEDS)):
        if (count := typed[key].nunique()) > most:
            raise UserError(f"{where} has {count:,} {key}s; at most {most:,} are read.")
    for metric in METRICS:
        cells = typed[metric].to_numpy()
        if finite:
            _refuse(typed, np.isinf(cells), where, metric, "a finite number")
        if metric in SHARES:
            _refuse(typed, (cells < 0) | (cells > 1), where, metric, "a share between 0 and 1")
        else:
            _refuse(typed, cells < (-ROUNDING if metric in LOSSES else 0), where, metric, "a number from 0")
        lacking = np.isnan(cells)
        if fresh and metric in NEEDED and (metric in LOSSES or not lacking.all()):
            _refuse(typed, lacking, where, metric, "a finite number")
    if typed.duplicated(list(KEYS)).any():
        typed = typed.sort_values("seconds", kind="stable").drop_duplicates([*KEYS, *RESULTS])
        typed = typed.sort_index().reset_index(drop=True)
        again = typed.duplicated(list(KEYS)).to_numpy()
        if again.any():
            raise UserError(f"{where} has {_name(typed[again].iloc[0])} twice, with different results; it must be "
                            "there once.")  # fmt: skip
    return typed


def read(path: Path) -> pd.DataFrame:
    """Read and check a history frame from a CSV file; raises `UserError` if it can't be read or is not one."""
    columns, rows = read_table(path)
    return check(pd.DataFrame(rows, columns=columns, dtype=object), str(path))


def write(histories: pd.DataFrame, path: Path) -> None:
    """Check a history frame and write it as CSV, whole or not at all; `read` gives back the same file's numbers."""
    checked = check(histories, str(path))
    with atomic_write(path) as tmp:
        checked.to_csv(tmp, index=False, float_format=DIGITS, lineterminator="\n")


def rounded(histories: pd.DataFrame) -> pd.DataFrame:
    """The same frame with its numbers as a file holds them."""
    return histories.assign(**{metric: [float(DIGITS % cell) for cell in histories[metric]] for metric in METRICS})


def configurations(histories: pd.DataFrame) -> list[str]:
    """The configurations of a frame, in its order."""
    return [str(name) for name in histories["configuration"].unique()]


def of(histories: pd.DataFrame, configuration: str) -> pd.DataFrame:
    """The rows of one configuration."""
    return histories[histories["configuration"] == configuration]


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
        One phrase per difference, in both directions (``linear lacks seed 2, epochs 4, 5``); empty if there is none.
    """
    size = len(names) * len(set(seed_list)) * len(set(epoch_list))
    if abs(size - len(histories)) > MOST_NAMED:
        return [f"{size:,} rows are expected, {len(histories):,} are there"]
    present: dict[str, dict[int, set[int]]] = {}
    for name, seed, epoch in zip(*(histories[key] for key in KEYS), strict=True):
        present.setdefault(str(name), {}).setdefault(int(seed), set()).add(int(epoch))
    expected = {name: {seed: set(epoch_list) for seed in seed_list} for name in names}
    return _surplus(expected, present, "lacks", "is missing") + _surplus(
        present, expected, "has, beyond what is expected,", "is there but not expected"
    )


Grid = Mapping[str, Mapping[int, set[int]]]  # configuration -> seed -> epochs


def _surplus(one: Grid, other: Grid, verb: str, absent: str) -> list[str]:
    """What ``one`` has that ``other`` does not, a phrase each."""
    phrases = []
    for name, runs in one.items():
        if name not in other:
            phrases.append(f"{name} {absent}")
            continue
        for seed in sorted(runs):
            theirs = other[name].get(seed)
            if theirs is None:
                phrases.append(f"{name} {verb} seed {seed}")
            elif left := sorted(runs[seed] - theirs):
                phrases.append(f"{name} {verb} seed {seed}, epoch{'s' if len(left) > 1 else ''} {_join(left)}")
    return phrases


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _typed(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    """Columns in order with their types, rows sorted; raises `UserError` for columns or values that don't fit."""
    given = [str(column) for column in raw.columns]
    _check_columns(given, where, required=bool(given))
    if len(set(given)) < len(given):
        raise UserError(f"{where} has a column twice; a history has {_join(COLUMNS)}.")
    names = [name if isinstance(name, str) else "" for name in raw.get("configuration", ())]
    columns: dict[str, Any] = {"configuration": pd.Series(names, dtype=object)}
    for column in COLUMNS[1:]:
        columns[column] = _numbers(raw, column, where)
    return _sorted(pd.DataFrame(columns, columns=list(COLUMNS)))


def _sorted(typed: pd.DataFrame) -> pd.DataFrame:
    """Configurations in the order of their first row, seeds and epochs in theirs."""
    codes, _ = pd.factorize(typed["configuration"])
    return typed.iloc[np.lexsort((typed["epoch"], typed["seed"], codes))].reset_index(drop=True)


def _check_columns(given: Collection[str], where: str, *, required: bool = True) -> None:
    """Raise `UserError` for columns that no history has and, if ``required``, for those that every one needs."""
    unknown = [column for column in given if column not in COLUMNS]
    missing = [column for column in (*KEYS, *NEEDED) if column not in given] if required else []
    for fault, names in (("has unknown columns", unknown), ("lacks the columns", missing)):
        if names:
            raise UserError(f"{where} {fault} {shorten(names)}; a history has {_join(COLUMNS)}.")


def _numbers(raw: pd.DataFrame, column: str, where: str) -> Any:
    """One column: integers for seed and epoch, else floats, NaN where it is empty."""
    integers = column in KEYS
    if column not in raw:
        return np.zeros(len(raw), dtype=np.int64) if integers else np.full(len(raw), np.nan)
    numbers = []
    for row, value in enumerate(raw[column], 1):
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        number = math.nan if empty else _number(value)
        if not (number.is_integer() and abs(number) < 2**53 if integers else empty or not math.isnan(number)):
            valid = "an integer" if integers else "a number, or empty if it was not measured"
            raise UserError(f"{where}, row {row}: {column} is {value!r}; valid is {valid}.")
        numbers.append(number)
    return np.array(numbers, dtype=np.float64).astype(np.int64 if integers else np.float64)


def _number(value: object) -> float:
    """NaN for what is no number."""
    if isinstance(value, (str, int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.nan
    return math.nan


def _refuse(typed: pd.DataFrame, invalid: Any, where: str, column: str, valid: str) -> None:
    if np.any(invalid):
        row = typed[np.asarray(invalid)].iloc[0]
        raise UserError(f"{where}, {_name(row)}: {column} is {row[column]!s}; valid is {valid}.")


def _name(row: pd.Series[Any]) -> str:
    return f"{row['configuration']} seed {row['seed']} epoch {row['epoch']}"
