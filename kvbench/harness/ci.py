"""What a run leaves for continuous integration: numbers in JUnit files, and the summary of a step on GitHub."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kvbench.results import history

if TYPE_CHECKING:
    from kvbench.findings.judge import Judgement
    from kvbench.harness.record import Record

STEP = "GITHUB_STEP_SUMMARY"  # the environment variable with the path of a step's summary
LARGEST = 2**20  # bytes of a step's summary: GitHub refuses what is larger, all of it
PREFIX = "kvbench."  # of our properties
Properties = list[tuple[str, str]]  # as pytest's ``user_properties``


def of_record(record: Record) -> Properties:
    """Means over seeds in the last epoch, the median of its seconds, and how many seeds there are.

    Example:
        >>> row = {"configuration": "linear", "seed": 0, "epoch": 1, "train_loss": 0.5, "val_accuracy": 0.7}
        >>> of_record({"configuration": "linear", "history": [row]})[1:]
        [('kvbench.epoch', '1'), ('kvbench.train_loss', '0.5'), ('kvbench.val_accuracy', '0.7')]
    """
    frame = history.frame(record["history"])
    if frame.empty:
        return []
    last = frame[frame["epoch"] == frame["epoch"].max()]
    found = {"seeds": str(len(last)), "epoch": str(last["epoch"].iloc[0])}
    for metric in history.METRICS:
        cells = frame["seconds"] if metric == "seconds" else last[metric]
        value = cells.median() if metric == "seconds" else cells.mean()
        if not math.isnan(value):  # what was not measured
            found[metric] = history.DIGITS % value
    return [(PREFIX + name, text) for name, text in found.items()]


def of_judgements(judgements: Iterable[Judgement], *, named: bool = False) -> Properties:
    """Verdicts by recipe, how many clauses hold, and each clause's margin with its 95% interval and number of seeds.

    ``named`` puts the finding's id before the recipe.
    """
    found = []
    for judgement in judgements:
        where = f"{judgement.finding.id}.{judgement.recipe}" if named else judgement.recipe
        found += [
            (f"{PREFIX}verdict.{where}", str(judgement.verdict)),
            (f"{PREFIX}clauses held.{where}", judgement.held),
        ]
        for clause in judgement.clauses:
            numbers = {"margin": clause.margin, "low": clause.low, "high": clause.high}
            known = {name: history.DIGITS % value for name, value in numbers.items() if math.isfinite(value)}
            known["n"] = str(clause.n)
            found += [(f"{PREFIX}{name}.{where}.{clause.id}", text) for name, text in known.items()]
    return found


def replaced(known: Iterable[tuple[str, object]], ours: Properties) -> list[tuple[str, object]]:
    """A test's properties with ours in the place of those that it had: a test may run again."""
    return [*(one for one in known if not one[0].startswith(PREFIX)), *ours]


def add_summary(path: Path, markdown: str) -> None:
    """Append markdown to the summary of a step on GitHub; of what is too large the beginning, where there is room.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab") as file:
        room = LARGEST - file.tell()
        content = f"{markdown.rstrip()}\n\n".encode()
        if len(content) > room:
            note = f"\n\nCut here: a step's summary holds {LARGEST:,} bytes.\n\n".encode()
            content = content[: max(0, room - len(note))].rpartition(b"\n")[0]
            content += note if content else b""
        file.write(content)
