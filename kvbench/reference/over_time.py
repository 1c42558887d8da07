"""When what moved over saved runs of one study and workload on one machine, each against a baseline of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, Union

import numpy as np

from kvbench.findings.clauses import Verdict
from kvbench.reference.compare import differing
from kvbench.reference.moves import EVERY, NumberMove, Way, number_moves, verdict_moves
from kvbench.reference.sides import Side
from kvbench.reference.status import Status
from kvbench.reference.timing import ratios, timings
from kvbench.reference.tolerances import TOLERANCES, Deviation
from kvbench.reference.verdicts import Key, clauses
from kvbench.results import history
from kvbench.results.saved import Outcome
from kvbench.utils.errors import shorten

NOT_COMPARED = "not compared"
ORDER = (Way.WORSE, Way.BETTER, Way.UNSETTLED)
Number = tuple[str, str]  # a configuration, and a number of it that has a tolerance
Name = TypeVar("Name", str, Number, Key)


@dataclass(frozen=True)
class Move:
    """What moved, and how."""

    what: str
    how: str

    def __str__(self) -> str:
        return f"{self.what}: {self.how}"


@dataclass(frozen=True)
class Event:
    """A run with which something moved."""

    run: str
    moves: Sequence[Move]


@dataclass(eq=False)
class _Baselines:
    """What each number, configuration's seconds and clause are held against in runs that are made alike.

    Each begins with the first good run that has it and goes on with the run in which it moved, so that what creeps is
    seen and no move is listed twice. A run that lost it, as a seed diverged, never takes over. ``waiting`` are
    configurations without a baseline; ``settled`` are numbers that could be compared once, ``few`` those that too few
    seeds tell, from the first; ``unsettled`` is what was listed as not settled of the last run that has it.
    """

    like: Side
    last: Side
    numbers: dict[Number, Side] = field(default_factory=dict)
    seconds: dict[str, Side] = field(default_factory=dict)
    clauses: dict[Key, Side] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    settled: set[Number] = field(default_factory=set)
    few: dict[Number, None] = field(default_factory=dict)
    unsettled: dict[Union[str, Key], frozenset[str]] = field(default_factory=dict)

    def moved(self, run: Side) -> list[Move]:
        """What moved with a run, which becomes the baseline of that."""
        measured = _measured(run)
        said = [*self._numbers(run, measured), *self._clauses(run)]
        found = [move for way in ORDER for at, move in said if at == way]
        found += self._seconds(run)
        if run.good:
            for number in measured:
                self.numbers.setdefault(number, run)
            for ratio in ratios(run.reference.histories, run.reference.histories):  # of all whose seconds can be used
                self.seconds.setdefault(ratio.configuration, run)
            for key, clause in clauses(run.reference.judgements).items():
                if not math.isnan(clause.margin):
                    self.clauses.setdefault(key, run)
        having = {name for name, _ in self.numbers}
        names = [*self.waiting, *history.configurations(run.reference.histories)]
        self.waiting = {name: None for name in names if name not in having}
        return found

    def lacking(self) -> list[str]:
        """Sentences about what could not be compared with anything."""
        said = []
        if self.waiting:
            names = shorten([*self.waiting])
            said.append(f"No baseline, as no run made like {self.like.name} passed that has them: {names}.")
        if self.few:
            counts = Counter(name for name, _ in self.few)
            names = shorten([f"{name} ({count} number{'s' * (count > 1)})" for name, count in counts.items()])
            said.append(f"Too few seeds to tell, in all runs made like {self.like.name}: {names}.")
        return said

    def _numbers(self, run: Side, measured: Mapping[Number, bool]) -> list[tuple[Way, Move]]:
        said = list[tuple[Way, Move]]()
        names = history.configurations(run.reference.histories)
        why = {name: list[NumberMove]() for name in names}
        every = [(name, tolerance.name) for name in names for tolerance in TOLERANCES]
        whole = [number for number in every if measured.get(number)]
        lost = [number for number in every if not measured.get(number)]  # apart, as they hide what all together show
        anew = list[Number]()
        for baseline, these in [*_by_baseline(self.numbers, whole), *_by_baseline(self.numbers, lost)]:
            for sharing, labels in _in_common(these):
                for move in number_moves(baseline, run, sharing):
                    affected = [(name, label) for name in (sharing if move.together else [move.configuration])
                                for label in labels if move.number in {label, EVERY}]  # fmt: skip
                    if not affected:
                        continue
                    if move.way in {Way.WORSE, Way.BETTER} and affected[0] not in lost:
                        known = move.together or (move.deviation and math.isfinite(move.deviation.expected))
                        how = f"{move.change if known else 'finite now'} ({move.way})"
                        said.append((move.way, Move(f"{move.configuration}, {move.number}", how)))
                        self._compared([] if move.together else affected)
                        self._begin(affected, run)
                    elif not move.together:
                        why[move.configuration] += self._uncompared(move, affected)
                        if move.way == Way.UNSETTLED and run.good and _tells_more(run, baseline, move):
                            anew += [number for number in affected if number in whole]
        for name, moves in why.items():
            worse = any(move.way == Way.WORSE for move in moves)
            left = _unsettled([move for move in moves if self.numbers.get((name, move.number)) is not run])
            said += self._settle(name, name, left, Way.WORSE if worse else Way.UNSETTLED)
        self._begin(anew, run)
        return said

    def _begin(self, numbers: Sequence[Number], run: Side) -> None:
        """Take a run as the baseline of numbers, with which they can be compared again."""
        for name, label in numbers:
            self.numbers[name, label] = run
            self.unsettled[name] = self.unsettled.get(name, frozenset()) - {label, EVERY}

    def _uncompared(self, move: NumberMove, numbers: Sequence[Number]) -> list[NumberMove]:
        """The move of these numbers, if it is to be listed that they were lost or are no longer settled."""
        if move.way == Way.SAME:
            self._compared(numbers)
            return []
        few = move.deviation is not None and _few(move.deviation) and move.way == Way.UNSETTLED
        if few and not self.settled.issuperset(numbers):
            self.few.update(dict.fromkeys(numbers))
            return []
        return [move]

    def _compared(self, numbers: Sequence[Number]) -> None:
        self.settled.update(numbers)
        for number in numbers:
            self.few.pop(number, None)

    def _clauses(self, run: Side) -> list[tuple[Way, Move]]:
        said = list[tuple[Way, Move]]()
        judged = clauses(run.reference.judgements)
        for baseline, keys in _by_baseline(self.clauses, self.clauses):
            found = {(move.finding, move.recipe, move.clause): move for move in verdict_moves(baseline, run)[0]}
            for key in keys:
                finding, recipe, clause = key
                what, move = f"{finding} ({recipe}), {clause}", found.get(key)
                how = f"{move.before} -> {move.after}" if move else ""
                lost = key in judged and math.isnan(judged[key].margin)
                if move and move.way in {Way.WORSE, Way.BETTER} and not lost:
                    said.append((move.way, Move(what, how)))
                    self.clauses[key] = run
                    self.unsettled.pop(key, None)
                elif move or key in judged:
                    unsettled = move is not None and (move.way == Way.UNSETTLED or lost)
                    listed = unsettled and move is not None and move.before != Verdict.UNDECIDED
                    why = f"{how}, no margin any more" if lost else how
                    said += self._settle(key, what, {how: why} if listed else {})
                    more = len(run.seeds) > len(baseline.seeds) and key in judged and not lost
                    if unsettled and run.good and more:
                        self.clauses[key] = run
                        self.unsettled.pop(key, None)
        return said

    def _settle(
        self, key: Union[str, Key], what: str, why: Mapping[str, str], way: Way = Way.UNSETTLED
    ) -> list[tuple[Way, Move]]:
        """List what is newly not settled, and that nothing is any more; ``why``: each such thing -> in words."""
        before = self.unsettled.pop(key, frozenset())
        if why:
            self.unsettled[key] = frozenset(why)
        if not why.keys() <= before:
            words = dict.fromkeys(why.values())
            return [(way, Move(what, f"{'; '.join(words)} ({way})"))]
        return [(Way.UNSETTLED, Move(what, "settled again"))] if before and not why else []

    def _seconds(self, run: Side) -> list[Move]:
        said, timed = [], []
        for baseline, names in _by_baseline(self.seconds, history.configurations(run.reference.histories)):
            for time in timings(run.reference.histories, baseline.reference.histories):
                if time.configuration not in names:
                    continue
                timed.append(time.configuration)
                if time.status in {Status.SLOWER, Status.FASTER}:
                    change = f"{time.expected:.2f} -> {time.obtained:.2f}"
                    said.append(Move(f"{time.configuration}, seconds over the run's mean", change))
        if said:  # the mean is over all, so where one moved, all begin anew
            self.seconds.update(dict.fromkeys(timed, run))
        return said


def over_time(runs: Sequence[Side]) -> tuple[list[Event], list[str]]:
    """List when what moved: outcomes, configurations that come and go, gates, numbers, verdicts and seconds.

    Runs that are made from something else than those before have baselines of their own.

    Args:
        runs: of one study and workload on one machine, in the order in which they were saved.

    Returns:
        The runs with which something moved, and sentences about what had no baseline or too few seeds in all of them.
    """
    events, lines = [], list[_Baselines]()
    there: dict[str, None] = {}
    ever: dict[str, None] = {}
    gates: dict[str, str] = {}
    for place, run in enumerate(runs):
        names = history.configurations(run.reference.histories)
        found = []
        if place and runs[place - 1].outcome != run.outcome:
            found.append(Move("outcome", f"{runs[place - 1].outcome} -> {run.outcome}"))
        line, start = _line(lines, run)
        # an incomplete run is a part that was chosen, which says nothing of the rest
        gone = [name for name in there if name not in names and run.outcome != Outcome.INCOMPLETE]
        for what, some in (
            ("new", [name for name in names if name not in ever]),
            ("there again", [name for name in names if name in ever and name not in there]),
            ("no longer there", gone),
        ):
            found += [Move(what, shorten(some))] if some else []
        there = {name: None for name in [*there, *names] if name not in gone}
        ever |= dict.fromkeys(names)
        for name in run.drifted:
            before, now = gates.get(name, NOT_COMPARED), gate(run, name)
            if before.startswith(Status.DRIFTED) != now.startswith(Status.DRIFTED):
                found.append(Move(f"{name}, gate", f"{before} -> {now}"))
            gates[name] = now
        moved = line.moved(run)
        if place and (found := [*start, *found, *moved]):
            events.append(Event(run.name, found))
    return events, [sentence for line in lines for sentence in line.lacking()]


def gate(run: Side, name: str) -> str:
    """How a configuration stood to the reference that there was."""
    if name not in run.drifted:
        return NOT_COMPARED
    return f"{Status.DRIFTED}: {', '.join(run.drifted[name])}" if run.drifted[name] else Status.WITHIN.value


def _line(lines: list[_Baselines], run: Side) -> tuple[_Baselines, list[Move]]:
    """The baselines of runs that are made like this one, which become the last of ``lines``; what to list of that."""
    known = run.reference.fingerprints
    for line in reversed(lines):
        if not differing(line.like.reference.fingerprints, known):
            back = [] if line is lines[-1] else [Move("as before", f"made from the same as {line.last.name}")]
            lines.remove(line)
            lines.append(line)
            line.like, line.last = line.like if line.like.reference.fingerprints else run, run
            return line, back
    start = []
    if lines:
        last = lines[-1].last
        why = differing(lines[-1].like.reference.fingerprints, known)[0].partition(": ")[2]
        start = [Move("a new start", f"made from something else than {last.name}: {why}")]
    lines.append(_Baselines(run, run))
    return lines[-1], start


def _by_baseline(held: Mapping[Name, Side], names: Iterable[Name]) -> list[tuple[Side, list[Name]]]:
    """Those of ``names`` that have a baseline, those that share one together."""
    found: dict[str, tuple[Side, list[Name]]] = {}
    for name in names:
        if name in held:
            found.setdefault(held[name].source, (held[name], []))[1].append(name)
    return list(found.values())


def _in_common(numbers: Iterable[Number]) -> list[tuple[list[str], list[str]]]:
    """Configurations with the numbers that they are all to be compared by."""
    names: dict[str, list[str]] = {}
    for name, label in numbers:
        names.setdefault(label, []).append(name)
    found: dict[tuple[str, ...], list[str]] = {}
    for label, having in names.items():
        found.setdefault(tuple(having), []).append(label)
    return [([*having], labels) for having, labels in found.items()]


def _measured(run: Side) -> dict[Number, bool]:
    """Every number that a run measured, and whether it is finite for all seeds."""
    found = {}
    for name in history.configurations(run.reference.histories):
        rows = history.of(run.reference.histories, name)
        last = rows["epoch"] == rows["epoch"].max()
        for tolerance in TOLERANCES:
            if not tolerance.optional or np.isfinite(rows[tolerance.metric].to_numpy()).any():
                cells = rows.loc[last | tolerance.whole_curve, tolerance.metric].to_numpy(dtype=np.float64)
                found[name, tolerance.name] = bool(np.isfinite(cells).all())
    return found


def _few(deviation: Deviation) -> bool:
    """Whether a number that is not settled is there on both sides, so that more seeds would tell."""
    return deviation.status not in {Status.NOT_MEASURED, Status.NO_NUMBER}


def _unsettled(moves: Sequence[NumberMove]) -> dict[str, str]:
    """Each number of a configuration that is lost or not settled -> why, in words that numbers share."""
    found: dict[str, tuple[str, str]] = {}
    for move in moves:
        if move.deviation is None:
            found[move.number] = move.why, ""
        elif move.deviation.status == Status.NOT_MEASURED:
            found[move.number] = "", Status.NOT_MEASURED
        elif move.way == Way.WORSE:
            found[move.number] = "", "no longer finite"
        elif _few(move.deviation):  # else neither has one: nothing moved
            found[move.number] = "", "too few seeds to tell"
    said = {}
    for number, (why, reason) in found.items():
        alike = [other for other, (_, its) in found.items() if its == reason]
        said[number] = why or f"{number if len(alike) == 1 else f'{len(alike)} numbers'}: {reason}"
    return said


def _tells_more(run: Side, baseline: Side, move: NumberMove) -> bool:
    """Whether a run is the better baseline, as what there is cannot be compared with it or has fewer seeds."""
    sides = (history.of(side.reference.histories, move.configuration) for side in (run, baseline))
    mine, theirs = (len(history.seeds(rows)) for rows in sides)
    return mine > theirs or move.deviation is None
