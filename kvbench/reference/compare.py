"""Comparison: a fresh configuration's curves against a reference, gate by gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from kvbench.reference.tolerances import GATES, HEADERS, NOT_COMPARED, Outcome, Sample, judge, number
from kvbench.results import history
from kvbench.stats.intervals import Floats

if TYPE_CHECKING:
    import pandas as pd

    from kvbench.reference.store import Reference

FAMILY_ERROR = 0.01  # chance that a run without any change fails, over all its gates together
FEW_SEEDS = 6  # below it Student's t makes the intervals very wide


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

    @property
    def moved(self) -> tuple[str, ...]:
        """The metrics of the gates that failed."""
        return tuple(dict.fromkeys(outcome.gate.metric for outcome in self.outcomes if outcome.failed))

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
            rows = [outcome.row() for outcome in self.outcomes]
            parts += ["", "Gates:", tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True)]
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
    rng_fingerprint: str = "",
) -> Comparison:
    """Compare one configuration of a fresh run with the reference: each of `GATES`, by `tolerances.judge`.

    The level keeps the chance of a false alarm at `FAMILY_ERROR` over all gates of all configurations of the reference
    (Bonferroni). Seconds are never compared. Where every fresh seed is one of the reference's too, draws the same
    random numbers and the reference has replicates, seeds are compared with themselves.

    Args:
        reference: what `kvbench.reference.store.load` returns.
        fresh: a history frame; other configurations in it are ignored.
        configuration: which one.
        fingerprints: what the run was made from; compared with the recorded ones, where both have some.
        seeds: those that the run was to train; None: those that it has.
        rng_fingerprint: names the random numbers that a seed gives where the run was made
            (`kvbench.utils.environment.rng_fingerprint`).
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
    count = len(history.seeds(old))
    if not problems:
        replicates = reference.replicates[reference.replicates["configuration"] == configuration]
        paired, why = _pairing(reference, old, new, replicates, rng_fingerprint)
        notes += [why] * bool(why)
        level = 1 - FAMILY_ERROR / (len(GATES) * len(history.configurations(reference.histories)))
        epochs = history.epochs(old)
        for gate in GATES:
            sample = Sample(grid(new, gate.metric, epochs), grid(old, gate.metric, epochs))
            if paired:
                both = (old["seed"].isin(history.seeds(side)) for side in (new, replicates))
                same, originals = (grid(old[rows], gate.metric, epochs) for rows in both)
                sample = Sample(sample.fresh, sample.reference, same, grid(replicates, gate.metric, epochs), originals)
            outcomes.append(judge(gate, epochs, sample, level))
        if 1 < count < FEW_SEEDS and not paired:
            notes.append(f"only {count} reference seeds, so the allowed intervals are wide; 8 make them useful")
        if left := [outcome.gate.name for outcome in outcomes if outcome.verdict == NOT_COMPARED]:
            notes.append(f"not compared, as one side did not measure it: {'; '.join(left)}")
    table = _curves(old, new) if not old.empty and not new.empty else ""
    judged = count > 1 and not problems
    return Comparison(
        reference.workload, configuration, tuple(problems), tuple(outcomes), judged, tuple(notes), table,
        reference.update_command,
    )  # fmt: skip


def _pairing(
    reference: Reference, old: pd.DataFrame, new: pd.DataFrame, replicates: pd.DataFrame, rng_fingerprint: str
) -> tuple[bool, str]:
    """Whether seeds can be compared with themselves, and what to say about it."""
    if replicates.empty or not set(history.seeds(new)) & set(history.seeds(old)):
        return False, ""
    if not set(history.seeds(new)) <= set(history.seeds(old)):
        return False, "some seeds are the reference's and some are new: all are compared as if they were new"
    if not rng_fingerprint or rng_fingerprint != reference.rng_fingerprint:
        return False, "a seed gives other random numbers here than where the reference was made: seeds count as new"
    count = len(history.seeds(replicates))
    return (
        True,
        f"against same seeds: each with its own recorded run; allowed is what other rounding does ({count} replicates)",
    )


def grid(rows: pd.DataFrame, metric: str, epochs: Sequence[int]) -> Floats:
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
            pair = [number(float(side.loc[side["epoch"] == epoch, metric].mean())) for side in (new, old)]
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
