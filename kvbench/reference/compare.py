"""Comparison: a fresh configuration's curves against a reference, tolerance by tolerance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from kvbench.reference.status import Status
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import HEADERS, TOLERANCES, Deviation, Sample, measure
from kvbench.results import history
from kvbench.stats.intervals import Floats, exact_mean
from kvbench.utils.text import number

FAMILY_ERROR = 0.01  # chance that a run without any change fails, over all its tolerances together
NO_SPREAD = "not judged: one reference seed, so no spread to judge by"
ROUNDED = 1e-6  # by so much a share in a file may be off
FEW_SEEDS = 6  # below it Student's t makes the intervals very wide


@dataclass(frozen=True)
class Comparison:
    """What a configuration's fresh curves look like against the reference.

    Args:
        problems: in words, what can't be compared though it should be: rows missing or too many, another teacher.
        deviations: one per tolerance; empty if there are problems.
        judged: False if the reference has one seed and so no spread to judge by.
        curves: a table of every epoch and metric, obtained against expected; description, not judged.
        update: the command that would make the fresh curves the reference.
    """

    workload: str
    configuration: str
    problems: tuple[str, ...]
    deviations: tuple[Deviation, ...]
    judged: bool
    notes: tuple[str, ...]
    curves: str
    update: str

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return bool(self.problems or self.drifted)

    @property
    def drifted(self) -> tuple[str, ...]:
        """The metrics that left their tolerances."""
        return tuple(dict.fromkeys(d.tolerance.metric for d in self.deviations if d.status.failed))

    @property
    def brief(self) -> str:
        """The conclusion in a sentence, with the number that is farthest outside."""
        head = f"{self.configuration} on {self.workload}"
        if self.problems:
            return f"{head} can't be compared with the reference: {'; '.join(self.problems)}."
        outside = [deviation for deviation in self.deviations if deviation.status.failed]
        if not outside:
            return f"{head} is within the reference." if self.judged else f"{head}: {NO_SPREAD}."
        worst = max(outside, key=lambda one: math.inf if math.isnan(one.excess) else one.excess)
        _, name, obtained, expected, difference, allowed, *_ = worst.row()
        left = len(outside) - 1
        more = f"; so {'is' if left == 1 else 'are'} {left} more of {len(self.deviations)} numbers" if left else ""
        by = f" ({difference})" if difference != "-" else ""
        return f"{head}: {name} is outside the reference: {obtained}, recorded {expected}{by}, allowed {allowed}{more}."

    def describe(self) -> str:
        """The conclusion, the tolerances, all epochs, and the command that would update."""
        outside = [d.tolerance.name for d in self.deviations if d.status.failed]
        if self.problems:
            head = "can't be compared with the reference"
        elif outside:
            head = f"{'; '.join(outside)} {'is' if len(outside) == 1 else 'are'} outside the reference"
        elif self.judged:
            head = "within the reference"
        else:
            head = NO_SPREAD
        parts = [f"{self.configuration} on {self.workload}: {head}", *(f"  {problem}" for problem in self.problems)]
        if self.deviations:
            rows = [deviation.row() for deviation in self.deviations]
            parts += ["", "Tolerances:", tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True)]
        parts += [f"  {note}" for note in self.notes]
        if self.curves:
            head = "All epochs, obtained / expected (mean over seeds; for information, the tolerances decide):"
            parts += ["", head, self.curves]
        return "\n".join([*parts, "", f"If this change is meant to be: {self.update}"])


def error_of_one(reference: Reference) -> float:
    """The chance of a false alarm that one number with a tolerance may have (Bonferroni, of `FAMILY_ERROR`).

    All configurations together, as `kvbench.reference.together` compares them, count as one more.
    """
    count = len(history.configurations(reference.histories))
    return FAMILY_ERROR / (len(TOLERANCES) * (count + (count > 1)))


def repeats(reference: Reference, fresh: pd.DataFrame, rng_fingerprint: str) -> bool:
    """Whether every fresh seed is one of the reference's, draws the same random numbers, and there are replicates."""
    known = set(history.seeds(fresh)) <= set(history.seeds(reference.histories))
    same = bool(rng_fingerprint) and rng_fingerprint == reference.rng_fingerprint
    return known and same and not reference.replicates.empty


@np.errstate(all="ignore")  # what is no number is NaN, whatever the caller's settings
def compare(
    reference: Reference,
    fresh: pd.DataFrame,
    configuration: str,
    fingerprints: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    rng_fingerprint: str = "",
    *,
    by_seed: bool = False,
) -> Comparison:
    """Compare one configuration of a fresh run with the reference: each of `TOLERANCES`, by `tolerances.measure`.

    The level keeps the chance of a false alarm at `FAMILY_ERROR` over all tolerances of all configurations of the
    reference (Bonferroni). Seconds are never compared. Where every fresh seed is one of the reference's too, draws the
    same random numbers and the reference has replicates, seeds are compared with themselves.

    Args:
        reference: what `kvbench.reference.store.load` returns.
        fresh: a history frame, in any order; other configurations in it are ignored.
        configuration: which one.
        fingerprints: what the run was made from; compared with the recorded ones, where both have some.
        seeds: those that the run was to train; None: those that it has.
        rng_fingerprint: names the random numbers that a seed gives where the run was made
            (`kvbench.utils.environment.rng_fingerprint`).
        by_seed: compare seeds with themselves even where the reference has no replicates.

    Raises:
        UserError: the fresh rows hold what no history can.

    Example:
        >>> reference = load(Path("expected"), "fractals", design)  # doctest: +SKIP
        >>> compare(reference, reference.histories, "linear").failed  # doctest: +SKIP
        False
    """
    new = history.of(fresh, configuration)
    new = history.check(new, "the run", finite=False) if len(new) else new
    old, replicates = (
        history.of(side, configuration).sort_values(["seed", "epoch"])
        for side in (reference.histories, reference.replicates)
    )
    epochs, count = history.epochs(old), len(history.seeds(old))
    problems = differing(reference.fingerprints, fingerprints or {})
    if old.empty:
        problems.append(f"the reference in {reference.folder} has no configuration {configuration}")
    elif new.empty:
        problems.append(f"the run has no rows of {configuration}")
    else:
        wanted = list(history.seeds(new) if seeds is None else seeds)
        # a published table may leave out epochs that a run has
        every = list(range(1, epochs[-1] + 1)) if reference.epochs_reported else epochs
        problems += history.incomplete(new, [configuration], wanted, every)
        problems += _one_curve_for_two_seeds(new, old) + _no_shares(new, old, reference.provenance.get("val_count"))
    deviations: list[Deviation] = []
    notes: list[str] = []
    if not problems:
        paired, why = _pairing(reference, old, new, replicates, rng_fingerprint, by_seed=by_seed)
        notes += [why] if why else []
        level = 1 - error_of_one(reference)
        repeated = old if reference.repeated is None else history.of(reference.repeated, configuration)
        repeated = repeated[repeated["seed"].isin(history.seeds(replicates))].sort_values(["seed", "epoch"])
        same = old[old["seed"].isin(history.seeds(new))]
        sides = [new, old, *([same, replicates, repeated][: 1 if replicates.empty else 3] if paired else [])]
        for tolerance in TOLERANCES:
            sample = Sample(*(grid(side, tolerance.metric, epochs) for side in sides))
            if not (np.isnan(sample.fresh).all() and np.isnan(sample.reference).all()):
                deviations.append(measure(tolerance, epochs, sample, level))
        if 1 < count < FEW_SEEDS and not paired:
            notes.append(f"only {count} reference seeds, so the allowed intervals are wide; 8 make them useful")
        if left := [d.tolerance.name for d in deviations if d.status == Status.NOT_MEASURED]:
            notes.append(f"not compared, as one side did not measure it: {'; '.join(left)}")
    return Comparison(
        reference.workload,
        configuration,
        tuple(problems),
        tuple(deviations),
        count > 1 and not problems,
        tuple(notes),
        "" if old.empty or new.empty else _curves(old, new),
        reference.update_command,
    )


def _one_curve_for_two_seeds(new: pd.DataFrame, old: pd.DataFrame) -> list[str]:
    """Say that two seeds have the same results, digit by digit, which no two recorded ones have."""
    fresh, recorded = (
        {
            seed: side.loc[side["seed"] == seed, list(history.RESULTS)].to_numpy().tobytes()
            for seed in history.seeds(side)
        }
        for side in (new, old)
    )
    firsts: dict[bytes, int] = {}
    for seed, curve in fresh.items() if len({*recorded.values()}) == len(recorded) else ():
        first = firsts.setdefault(curve, seed)
        if first != seed:
            same = f"seeds {first} and {seed} have the same results, digit by digit"
            return [f"{same}, which recorded seeds have not: is the training given its seed?"]
    return []


def _no_shares(new: pd.DataFrame, old: pd.DataFrame, count: int | None) -> list[str]:
    """Say that accuracies or agreements are no shares of ``count`` validation images, which recorded ones are."""
    if not count or count * ROUNDED > 0.1:
        return []

    def off(side: pd.DataFrame) -> float:
        hits = side[list(history.SHARES)].to_numpy(dtype=np.float64) * count
        return float(np.nan_to_num(np.abs(hits - np.round(hits))).max(initial=0))

    if off(old) > count * ROUNDED or off(new) <= count * ROUNDED:
        return []
    return [f"accuracies or agreements are no shares of {count:,} images: validation saw another number of them"]


def _pairing(
    reference: Reference,
    old: pd.DataFrame,
    new: pd.DataFrame,
    replicates: pd.DataFrame,
    rng_fingerprint: str,
    *,
    by_seed: bool,
) -> tuple[bool, str]:
    """Whether seeds can be compared with themselves, and what to say about it."""
    mine, recorded = set(history.seeds(new)), set(history.seeds(old))
    if (replicates.empty and not by_seed) or not mine & recorded:
        return False, ""
    if not mine <= recorded:
        return False, "some seeds are the reference's and some are new: all are compared as if they were new"
    if not rng_fingerprint or rng_fingerprint != reference.rng_fingerprint:
        return False, "a seed gives other random numbers here than where the reference was made: seeds count as new"
    count = len(history.seeds(replicates))
    if not count:
        return True, "against same seeds: each with its own run; allowed is what their own differences leave open"
    why = (
        f"against same seeds: each with its own recorded run; allowed is what other rounding does ({count} replicates)"
    )
    return True, why


def grid(rows: pd.DataFrame, metric: str, epochs: Sequence[int]) -> Floats:
    """(S, E) of one configuration's complete rows, sorted by seed and epoch, at some epochs; infinite values as NaN."""
    cells = rows.loc[rows["epoch"].isin(epochs), metric].to_numpy(dtype=np.float64)
    return np.where(np.isinf(cells), np.nan, cells).reshape(-1, len(epochs))


def _curves(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Every epoch of either side and every metric but seconds, as ``obtained / expected``."""
    metrics = [m for m in history.RESULTS if not all(np.isnan(side[m].to_numpy()).all() for side in (old, new))]
    tolerated = {tolerance.metric for tolerance in TOLERANCES}
    means = [
        {
            epoch: [exact_mean(cells) for cells in side[metrics].to_numpy()[side["epoch"] == epoch].T]
            for epoch in history.epochs(side)
        }
        for side in (new, old)
    ]
    every = sorted({*means[0], *means[1]})
    rows = []
    for epoch in every:
        marks = [" *" if metric in tolerated and epoch == every[-1] else "" for metric in metrics]
        sides = [side.get(epoch, [np.nan] * len(metrics)) for side in means]
        cells = [" / ".join(number(mean, missing="-") for mean in pair) for pair in zip(*sides, strict=True)]
        rows.append([str(epoch), *(cell + mark for cell, mark in zip(cells, marks, strict=True))])
    table = tabulate(rows, ["epoch", *metrics], tablefmt="simple", disable_numparse=True)
    return f"{table}\n* has a tolerance; -: not measured, or no number for some seed"


def differing(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    """A sentence that names the fingerprints that differ, as a list of one; empty if none does or a side has none.

    Of a reference that was recorded without the name of its study, those that both sides have are compared.
    """
    old, new = (json.loads(json.dumps(dict(side), default=str)) for side in (recorded, fresh))  # tuples become lists
    compared = {**old, **new} if "study" in old else old.keys() & new.keys()
    names = [name for name in {**old, **new} if name in compared and old.get(name) != new.get(name)]
    if not old or not new or not names:
        return []
    pairs = [f"{name} ({_short(new.get(name))}, recorded {_short(old.get(name))})" for name in names]
    return [f"the run was made from something else than the reference: {', '.join(pairs)}"]


def _short(value: object) -> str:
    text = "none" if value is None else number(value, "g") if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
