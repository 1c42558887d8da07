"""Comparison: a fresh configuration's curves against a reference, gate by gate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from kvbench import history
from kvbench.statistics import Floats, log_area, log_losses, prediction_interval

if TYPE_CHECKING:
    import pandas as pd

    from kvbench.reference import Reference

FAMILY_ERROR = 0.01  # chance that a run without any change fails, over all its gates together
LOSS_FLOOR = 1e-3  # relative: what another platform's rounding may move a loss, however little seeds spread
SHARE_FLOOR = 0.002  # absolute, of accuracies: a few images of a validation set
FEW_SEEDS = 6  # below it Student's t makes the intervals very wide

WITHIN, MOVED, NO_NUMBER, NOT_JUDGED, NOT_COMPARED = "within", "MOVED", "NO NUMBER", "not judged", "not compared"


@dataclass(frozen=True)
class Gate:
    """A number of a run that must stay where the reference has it: of a metric's whole curve or its last epoch."""

    name: str
    metric: str
    whole: bool = False
    optional: bool = False  # compared only if both sides measured it

    @property
    def loss(self) -> bool:
        return self.metric in history.LOSSES

    def values(self, epochs: Sequence[int], curves: Floats) -> Floats:
        """(S,) of curves (S, E): log losses, so that differences are ratios, or shares as they are."""
        if self.whole:
            return np.array([log_area(epochs, curve) for curve in curves])
        return log_losses(curves[:, -1]) if self.loss else curves[:, -1]


GATES = (
    Gate("train_loss, whole curve", "train_loss", whole=True),
    Gate("train_loss, last epoch", "train_loss"),
    Gate("val_loss, last epoch", "val_loss", optional=True),
    Gate("val_accuracy, last epoch", "val_accuracy"),
    Gate("agreement, last epoch", "agreement", optional=True),
)


@dataclass(frozen=True)
class Outcome:
    """A gate's numbers: means over seeds and what the reference allows, losses in nat (geometric mean over seeds)."""

    gate: Gate
    verdict: str
    obtained: float = math.nan
    expected: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def failed(self) -> bool:
        return self.verdict in {MOVED, NO_NUMBER}

    def row(self) -> list[str]:
        percent, difference = (self.obtained / self.expected - 1) * 100, self.obtained - self.expected
        text = f"{percent:+.2f}%" if self.gate.loss else f"{difference:+.4f}"
        allowed = (
            "unknown" if not math.isfinite(self.high - self.low) else f"{_number(self.low)} to {_number(self.high)}"
        )
        mark = ">>" if self.failed else ""
        return [mark, self.gate.name, _number(self.obtained), _number(self.expected), text, allowed, self.verdict]


@dataclass(frozen=True)
class Comparison:
    """What a configuration's fresh curves look like beside the reference.

    Args:
        problems: in words, what can't be compared though it should be: rows that lack or are too many, another teacher.
        outcomes: one per gate; empty if there are problems.
        judged: False if the reference has one seed and so no spread to judge by.
        curves: a table of every epoch and metric, obtained against expected; description, not judged.
        update: the command that would make the fresh curves the reference.
    """

    workload: str
    configuration: str
    problems: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    judged: bool
    notes: tuple[str, ...]
    curves: str
    update: str

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return bool(self.problems) or any(outcome.failed for outcome in self.outcomes)

    def describe(self) -> str:
        """The verdict, the gates, all epochs, and the command that would update."""
        moved = [outcome.gate.name for outcome in self.outcomes if outcome.failed]
        head = f"{self.configuration} on {self.workload}: "
        if self.problems:
            head += "can't be compared with the reference"
        elif moved:
            head += f"{'; '.join(moved)} {'is' if len(moved) == 1 else 'are'} outside the reference"
        else:
            head += (
                "within the reference" if self.judged else "not judged: one reference seed, so no spread to judge by"
            )
        parts = [head, *(f"  {problem}" for problem in self.problems)]
        if self.outcomes:
            headers = ["", "gate", "obtained", "expected", "difference", "allowed", "verdict"]
            rows = [outcome.row() for outcome in self.outcomes]
            parts += ["", "Gates:", tabulate(rows, headers, tablefmt="simple", disable_numparse=True)]
        parts += [f"  {note}" for note in self.notes]
        if self.curves:
            parts += [
                "",
                "All epochs, obtained / expected (mean over seeds; for reading, the gates decide):",
                self.curves,
            ]
        return "\n".join([*parts, "", f"If this change is meant to be: {self.update}"])


def compare(
    reference: Reference,
    fresh: pd.DataFrame,
    configuration: str,
    fingerprints: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
) -> Comparison:
    """Compare one configuration of a fresh run with the reference.

    The mean over the fresh seeds of each of `GATES` must lie in the Student t prediction interval of the reference
    seeds, at a level that keeps the chance of a false alarm at `FAMILY_ERROR` over all gates of all configurations of
    the reference (Bonferroni), widened by `LOSS_FLOOR` or `SHARE_FLOOR`. Seconds are never compared.

    Args:
        reference: what `kvbench.reference.load` returns.
        fresh: a history frame; other configurations in it are ignored.
        configuration: which one.
        fingerprints: what the run was made from; compared with the recorded ones, where both have some.
        seeds: those that the run was to train; None: those that it has.
    """
    new = fresh[fresh["configuration"] == configuration]
    new = history.check(new, "the run", finite=False) if len(new) else new
    old = reference.histories[reference.histories["configuration"] == configuration]
    problems = differing(reference.fingerprints, fingerprints or {})
    if old.empty:
        problems.append(f"the reference in {reference.folder} has no configuration {configuration}")
    elif new.empty:
        problems.append(f"the run has no rows of {configuration}")
    else:
        wanted = list(history.seeds(new) if seeds is None else seeds)
        known = history.epochs(old)
        # a published table may leave out epochs that a run has
        every = list(range(1, known[-1] + 1)) if reference.epochs_reported else known
        problems += history.incomplete(new, [configuration], wanted, every)
    outcomes: list[Outcome] = []
    notes: list[str] = []
    spread = len(history.seeds(old)) > 1
    if not problems:
        level = 1 - FAMILY_ERROR / (len(GATES) * len(history.configurations(reference.histories)))
        outcomes = [_judge(gate, old, new, level, judged=spread) for gate in GATES]
        count = len(history.seeds(old))
        if 1 < count < FEW_SEEDS:
            notes.append(f"only {count} reference seeds, so the allowed intervals are wide; 8 make them useful")
        if left := [outcome.gate.name for outcome in outcomes if outcome.verdict == NOT_COMPARED]:
            notes.append(f"not compared, as one side did not measure it: {'; '.join(left)}")
    table = _curves(old, new) if not old.empty and not new.empty else ""
    judged = spread and not problems
    return Comparison(
        reference.workload, configuration, tuple(problems), tuple(outcomes), judged, tuple(notes), table,
        reference.update_command,
    )  # fmt: skip


def _judge(gate: Gate, old: pd.DataFrame, new: pd.DataFrame, level: float, *, judged: bool) -> Outcome:
    """Judge one gate from the rows of one configuration."""
    epochs = history.epochs(old)
    theirs, mine = _grid(old, gate.metric, epochs), _grid(new, gate.metric, epochs)
    if gate.optional and (np.isnan(theirs).all() or np.isnan(mine).all()):
        return Outcome(gate, NOT_COMPARED)
    theirs, mine = gate.values(epochs, theirs), gate.values(epochs, mine)
    low, high = prediction_interval(theirs, len(mine), level)
    floor = LOSS_FLOOR if gate.loss else SHARE_FLOOR
    numbers = np.array([mine.mean(), theirs.mean(), low - floor, high + floor])
    if not np.isfinite(numbers[:2]).all():
        verdict = NO_NUMBER
    elif not judged:
        verdict = NOT_JUDGED
    else:
        verdict = WITHIN if numbers[2] <= numbers[0] <= numbers[3] else MOVED
    shown = np.exp(np.clip(numbers, -700, 700)) if gate.loss else numbers  # exp overflows above 709
    if not judged:
        shown[2:] = math.nan
    return Outcome(gate, verdict, *(float(number) for number in shown))


def _grid(rows: pd.DataFrame, metric: str, epochs: Sequence[int]) -> Floats:
    """(S, E) of one configuration's complete rows at some epochs; infinite values as NaN."""
    cells = rows.loc[rows["epoch"].isin(epochs), metric].to_numpy(dtype=np.float64)
    return np.where(np.isinf(cells), np.nan, cells).reshape(-1, len(epochs))


def _curves(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Every epoch of either side and every metric but seconds, as ``obtained / expected``."""
    metrics = [m for m in history.METRICS if m != "seconds" and (old[m].notna().any() or new[m].notna().any())]
    gated = {gate.metric for gate in GATES}
    rows = []
    every = sorted({*history.epochs(old), *history.epochs(new)})
    for epoch in every:
        cells = []
        for metric in metrics:
            pair = [_number(float(side.loc[side["epoch"] == epoch, metric].mean())) for side in (new, old)]
            cells.append(" / ".join(pair) + " *" * (metric in gated and epoch == every[-1]))
        rows.append([str(epoch), *cells])
    return tabulate(rows, ["epoch", *metrics], tablefmt="simple", disable_numparse=True) + "\n* a gate"


def differing(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    """A sentence that names the fingerprints that differ, as a list of one; empty if none does or a side has none."""
    old, new = (json.loads(json.dumps(dict(side), default=str)) for side in (recorded, fresh))  # tuples become lists
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not old or not new or not names:
        return []
    pairs = [f"{name} ({_short(new.get(name))}, recorded {_short(old.get(name))})" for name in names]
    return [f"the run was made from something else than the reference: {', '.join(pairs)}"]


def _short(value: object) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
