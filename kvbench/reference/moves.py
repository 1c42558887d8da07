"""What moved between two sides: numbers, verdicts and seconds, by the statistics that gate a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from kvbench.findings.clauses import Clause, Verdict
from kvbench.reference.changes import Change, verdict_changes
from kvbench.reference.compare import FAMILY_ERROR, compare, differing, error_of_one
from kvbench.reference.sides import Side
from kvbench.reference.status import Status
from kvbench.reference.store import Reference
from kvbench.reference.timing import Ratio, ratios
from kvbench.reference.together import Together, compare_together
from kvbench.reference.tolerances import TOLERANCES, Deviation
from kvbench.reference.verdicts import Key, clauses
from kvbench.results import history
from kvbench.stats.intervals import student
from kvbench.stats.significance import without_spread
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import UserError, shorten
from kvbench.utils.text import number

if TYPE_CHECKING:
    import pandas as pd


class Way(str, Enum):
    """Which way something moved, from A to B."""

    WORSE = "worse"
    UNSETTLED = "not settled"  # it could not be measured, or too few seeds tell
    BETTER = "better"
    SAME = "the same"  # as far as seeds or rounding explain

    __str__ = str.__str__


ALL = "all together"  # in the place of a configuration
EVERY = "every number"  # in the place of one
ALIKE = 0.9  # correlation of two runs of a seed: of most recorded replicates it is above
BLIND, BLIND_SHARE = 2.0, 0.25  # what could move a loss so many times, or a share so far, unseen, was not measured
EXITS = {Way.WORSE: 1, Way.UNSETTLED: 3, Way.BETTER: 0, Way.SAME: 0}  # 2: there was nothing to compare


@dataclass(frozen=True)
class NumberMove:
    """A configuration's number that has a tolerance; ``why``: it could not be measured, in words.

    ``together`` is a number of all configurations as one.
    """

    configuration: str
    way: Way
    deviation: Deviation | None = None
    why: str = ""
    together: Together | None = None

    @property
    def number(self) -> str:
        """What it is called; all of a configuration's where none could be measured."""
        measured = self.deviation or self.together
        return measured.tolerance.name if measured else EVERY

    @property
    def change(self) -> str:
        """How far it moved: ``+5.00%``."""
        if self.together:
            return f"{number(self.together.shift, '+.2f')} standard deviations between seeds"
        return self.deviation.row()[4] if self.deviation else "-"


@dataclass(frozen=True)
class VerdictMove:
    """A clause's verdict on either side, and what it now rests on."""

    finding: str
    recipe: str
    clause: str
    way: Way
    before: str
    after: str
    evidence: str = ""


@dataclass(frozen=True)
class SecondsMove:
    """A configuration's seconds; a way other than the same only where a gate was asked for."""

    way: Way
    ratio: Ratio


@dataclass(frozen=True)
class Moves:
    """What there is to say of B against A: every number, every verdict that is not the same, all seconds."""

    a: Side
    b: Side
    numbers: Sequence[NumberMove]
    verdicts: Sequence[VerdictMove]
    judged: int  # clauses that both sides judge
    seconds: Sequence[SecondsMove]
    notes: Sequence[str]
    surroundings: Sequence[str]

    @cached_property
    def way(self) -> Way:
        """The first of `Way` that anything went."""
        return next((way for way in Way if any(self.of(way))), Way.UNSETTLED)

    @property
    def exit(self) -> int:
        """The exit status: 0 nothing moved for the worse, 1 something did, 3 not settled."""
        return EXITS[self.way]

    @property
    def same_clauses(self) -> int:
        """How many clauses both sides judge alike."""
        return self.judged - sum(move.way != Way.SAME and move.after != Status.NOT_JUDGED for move in self.verdicts)

    def of(self, way: Way) -> tuple[list[NumberMove], list[VerdictMove], list[SecondsMove]]:
        """What went one way."""
        numbers = [move for move in self.numbers if move.way == way]
        verdicts = [move for move in self.verdicts if move.way == way]
        return numbers, verdicts, [move for move in self.seconds if move.way == way]


def moves(a: Side, b: Side, *, allow_failed: bool = False, slower: float | None = None) -> Moves:
    """Compare two sides, A the baseline.

    Numbers are compared by `kvbench.reference.compare.compare`: seeds that both sides have and that draw the same
    random numbers each with itself, where that sees more than all seeds do (`_worth_pairing`); else B's must lie where
    A's seeds predict them, and so must all configurations as one (`kvbench.reference.together`). Verdicts are today's
    findings judged on either side, and compared by `kvbench.reference.changes.verdict_changes`. A configuration, number
    or verdict that A has and B lacks is not settled; what only B has is a note.

    Args:
        a: the baseline.
        b: what is compared with it.
        allow_failed: take a run as the baseline that did not pass.
        slower: seconds are worse where B surely takes more than so many times as long.

    Raises:
        UserError: A did not pass, or the sides are not comparable: of other studies or workloads, made from something
            else, trained for other epochs, without a configuration in common.
    """
    if not (a.good or allow_failed):
        raise UserError(
            f"{a.name} is no baseline: {_ending(a)} Compare with a run that passed or with a reference, or take it all"
            " the same with --allow-failed."
        )
    old, new = a.reference, b.reference
    for what, mine, theirs in (("study", a.study, b.study), ("workload", old.workload, new.workload)):
        if mine and theirs and mine != theirs:
            raise UserError(f"{a.name} is of the {what} {mine}, {b.name} of {theirs}: they cannot be compared.")
    if problems := differing(old.fingerprints, new.fingerprints):
        changed = problems[0].partition(": ")[2]
        raise UserError(f"{b.name} was made from something else than {a.name} (recorded): {changed}.")
    names, others = (history.configurations(side.histories) for side in (old, new))
    both = [name for name in names if name in others]
    if not both:
        raise UserError(f"{a.name} and {b.name} have no configuration in common: {shorten(names)}; {shorten(others)}.")
    if new.epochs_reported:  # as far as both are published tables, their epochs must be the same
        old = replace(old, provenance={**old.provenance, "epochs_reported": []})
    numbers = number_moves(replace(a, reference=old), b, both)
    if all(move.deviation is None for move in numbers):
        raise UserError(f"{a.name} and {b.name} cannot be compared: {numbers[0].configuration}: {numbers[0].why}.")
    numbers += [NumberMove(name, Way.UNSETTLED, why=f"{b.name} does not have it") for name in names if name not in both]
    verdicts, judged, unrecorded = verdict_moves(a, b)
    notes = [f"{side.name}: {_ending(side)}" for side in (a, b) if not side.good]
    if more := [name for name in others if name not in both]:
        notes.append(f"{a.name} does not have {shorten(more)}, so there is nothing to compare them with")
    if unrecorded:
        notes.append(f"{unrecorded} clauses were judged in {b.name} alone")
    unknown = [side.name for side in (a, b) if not side.reference.fingerprints]
    if len(unknown) == 1:
        notes.append(f"what {unknown[0]} was made from is not known, so data or teacher may differ")
    if a.source == b.source:
        notes.append("both sides are the same file")
    if a.seeds != b.seeds:
        notes.append(f"{a.name} has {_seeds(a)}, {b.name} has {_seeds(b)}")
    return Moves(a, b, numbers, verdicts, judged, _seconds(a, b, slower), notes,
                 differences(old.provenance, new.provenance))  # fmt: skip


def _ending(side: Side) -> str:
    why = "".join(f"; {reason}" for reason in side.reasons[:3]).replace("\n", " ")
    said = {"unknown": "it does not say whether it passed", "failed": "it failed"}
    return said.get(str(side.outcome), f"it is {side.outcome}") + f"{why}."


def _seeds(side: Side) -> str:
    return f"seed{'s' if len(side.seeds) > 1 else ''} {shorten([str(seed) for seed in side.seeds])}"


def number_moves(a: Side, b: Side, names: Sequence[str]) -> list[NumberMove]:
    """Every number of configurations that both sides have: of these ``names``, each and all as one."""
    stream = b.reference.rng_fingerprint
    known = bool(stream) and stream == a.reference.rng_fingerprint
    finest = FAMILY_ERROR / (len(TOLERANCES) * len(history.configurations(a.reference.histories)))
    found: list[NumberMove] = []
    for name in names:
        theirs, mine = (history.of(side.reference.histories, name) for side in (a, b))
        why = [f"in {side.name}, {phrase}" for side, rows in ((a, theirs), (b, mine))
               for phrase in history.incomplete(rows, [name], _due(side, rows), history.epochs(rows))]  # fmt: skip
        deviations: list[Deviation] = []
        if not why:
            pairs = sorted({*history.seeds(mine)} & {*history.seeds(theirs)}) if known else []
            deviations, why = _deviations(a.reference, mine, theirs, name, pairs)
            why = [f"in {b.name}, {problem}" for problem in why]
        if why:
            found.append(NumberMove(name, Way.UNSETTLED, why=shorten(why)))
            continue
        alike = without_spread(len(history.seeds(theirs))) > finest  # by chance, where a number has few values
        found += [
            NumberMove(name, _way(one, alike=alike), one)
            for one in deviations  # what the baseline did not measure, it cannot miss
            if one.status != Status.NOT_MEASURED or theirs[one.tolerance.metric].notna().any()
        ]
    return found + _together(a, b, names, found)


def _deviations(
    reference: Reference, mine: pd.DataFrame, theirs: pd.DataFrame, name: str, pairs: Sequence[int]
) -> tuple[list[Deviation], list[str]]:
    """A configuration's numbers, seed by seed or over all seeds, whichever sees more; or why not, in words.

    Which, is decided before any fresh number is read: choosing by the outcome would add to the chance of a false alarm.
    """
    every, before = history.seeds(mine), len(history.seeds(theirs))
    rounding = not history.of(reference.replicates, name).empty  # tells by itself how far a pair may differ
    by_seed = rounding and [*pairs] == every
    if len(pairs) > 1:
        by_seed = rounding or _worth_pairing(len(pairs), before, len(every), 1 - error_of_one(reference))
    found: dict[str, Deviation] = {}
    for seeds in (pairs, every) if by_seed and len(pairs) < len(every) else (pairs if by_seed else every,):
        stream = reference.rng_fingerprint if by_seed and seeds is pairs else ""
        fresh = mine[mine["seed"].isin(seeds)]
        compared = compare(reference, fresh, name, rng_fingerprint=stream, by_seed=bool(stream))
        if compared.problems:
            return [], [*compared.problems]
        for one in compared.deviations:
            earlier = found.get(one.tolerance.name)
            if earlier is None or not earlier.paired or not math.isfinite(one.obtained):  # a seed without a pair, too
                found[one.tolerance.name] = one
    return [*found.values()], []


def _worth_pairing(pairs: int, before: int, after: int, level: float) -> bool:
    """Whether the mean difference of so many pairs is known better than that of all seeds of both sides.

    By the half widths of both intervals in standard deviations between seeds, where two runs of a seed are `ALIKE`.

    Example:
        >>> [_worth_pairing(pairs, 8, 8, 0.999) for pairs in (2, 3, 4, 5)]
        [False, False, False, True]
    """
    paired = student(pairs - 1, level) * math.sqrt(2 * (1 - ALIKE) / pairs)
    return paired < student(before - 1, level) * math.sqrt(1 / before + 1 / after)


def _together(a: Side, b: Side, names: Sequence[str], found: Sequence[NumberMove]) -> list[NumberMove]:
    """All configurations as one, where no seed was compared with itself.

    It costs no chance of a false alarm: `error_of_one` counts it as one more configuration.
    """
    deviations = [move.deviation for move in found if move.deviation]
    if any(one.paired for one in deviations) or len(found) != len(deviations):
        return []
    moved = []
    for one in compare_together(a.reference, b.reference.histories, names=names):
        spread = any(math.isfinite(each.in_sds) for each in deviations if each.tolerance == one.tolerance)
        worse = Way.WORSE if (one.shift > 0) == one.tolerance.loss else Way.BETTER
        way = Way.SAME if not one.failed else worse if spread else Way.UNSETTLED  # no spread seen is not no spread
        moved.append(NumberMove(ALL, way, why=one.describe("A"), together=one))
    return moved


def _due(side: Side, rows: pd.DataFrame) -> list[int]:
    """The seeds that a configuration should have: of a reference, which is whole, those that it has."""
    asked = side.reference.provenance.get("seeds")
    if side.outcome is None or not isinstance(asked, list) or not all(type(seed) is int for seed in asked):
        return history.seeds(rows)
    return asked or history.seeds(rows)


def _way(deviation: Deviation, *, alike: bool) -> Way:
    """Which way a number moved; ``alike``: the baseline's seeds may have the same number by chance."""
    before, after = deviation.expected, deviation.obtained
    if deviation.status == Status.NO_NUMBER and math.isfinite(after) != math.isfinite(before):
        return Way.BETTER if math.isfinite(after) else Way.WORSE
    if deviation.status == Status.DRIFTED:
        if alike and not deviation.paired and math.isnan(deviation.in_sds):
            return Way.UNSETTLED  # no spread seen is not no spread
        return Way.WORSE if (after > before) == deviation.tolerance.loss else Way.BETTER
    if deviation.tolerance.loss:
        blind = deviation.high > deviation.low * BLIND**2
    else:
        blind = deviation.high - deviation.low > 2 * BLIND_SHARE
    return Way.UNSETTLED if deviation.status != Status.WITHIN or blind else Way.SAME


def verdict_moves(a: Side, b: Side) -> tuple[list[VerdictMove], int, int]:
    """Clauses whose verdicts are not the same; how many were compared; how many only B has."""
    table = a.reference.recorded
    keys = list(zip(table["finding"], table["recipe"], table["clause"], strict=True))
    before: dict[Key, str] = dict(zip(keys, table["verdict"], strict=True))
    counts: dict[Key, int] = dict(zip(keys, table["n"], strict=True))
    after = clauses(b.reference.judgements)
    changes = verdict_changes(a.reference, b.reference.judgements, history.configurations(b.reference.histories))
    found = []
    for change in changes:
        key = (change.finding, change.recipe, change.clause)
        if key in before and key not in after:
            found.append(VerdictMove(*key, Way.UNSETTLED, before[key], Status.NOT_JUDGED.value))
        elif key in before:
            clause = after[key]
            evidence = f"{clause.sentence}: {clause.numbers}; {clause.describe_margin()}"
            way = _turn(change, clause, counts[key])
            found.append(VerdictMove(*key, way, before[key], clause.verdict.value, evidence))
    return found, len(before.keys() & after.keys()), len(after.keys() - before.keys())


def _turn(change: Change, clause: Clause, count: int) -> Way:
    """Which way a verdict of ``count`` seeds moved: a sentence no longer true is worse; one seed settles nothing."""
    if change.status == Status.CHANGED:
        if min(clause.n, count) == 1 and not math.isnan(clause.margin):
            return Way.UNSETTLED
        return Way.BETTER if clause.verdict == Verdict.HOLDS else Way.WORSE
    return Way.UNSETTLED if change.unconfirmed else Way.SAME


def _seconds(a: Side, b: Side, slower: float | None) -> list[SecondsMove]:
    """Seconds of what both sides timed; of what A timed alone as well where there is a gate."""
    old, new = a.reference, b.reference
    found = ratios(new.histories, old.histories)
    if slower is None:
        return [SecondsMove(Way.SAME, ratio) for ratio in found]
    timed = old.histories[old.histories["seconds"].notna()]
    lost = [name for name in history.configurations(timed) if name not in {ratio.configuration for ratio in found}]
    elsewhere = old.provenance.get("hardware") != new.provenance.get("hardware")
    moved = [SecondsMove(Way.UNSETTLED, Ratio(name, math.nan, math.nan, math.nan)) for name in lost]
    for ratio in found:
        sure = Way.UNSETTLED if elsewhere or math.isnan(ratio.low) else Way.WORSE if ratio.low > 1 else Way.SAME
        moved.append(SecondsMove(sure if ratio.ratio > slower else Way.SAME, ratio))
    return moved
