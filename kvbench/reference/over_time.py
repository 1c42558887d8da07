"""When what moved over saved runs of one study and workload on one machine, each against a baseline of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, Union

from kvbench.reference.compare import differing
from kvbench.reference.moves import NumberMove, Way, number_moves, verdict_moves
from kvbench.reference.sides import Side
from kvbench.reference.status import Status
from kvbench.reference.timing import timings
from kvbench.reference.verdicts import Key, clauses
from kvbench.results import history
from kvbench.results.saved import Outcome
from kvbench.utils.errors import shorten

NOT_COMPARED = "not compared"
ORDER = (Way.WORSE, Way.BETTER, Way.UNSETTLED)
Name = TypeVar("Name", str, Key)


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
    """What each configuration's numbers and seconds, and each clause, are held against in runs that are made alike.

    Each begins with the first good run that has it and goes on with the run in which it moved, so that what creeps is
    seen and no move is listed twice. ``waiting`` are configurations without a baseline; ``unsettled`` is what could not
    be compared in the last run that has it, and why.
    """

    like: Side
    last: Side
    numbers: dict[str, Side] = field(default_factory=dict)
    seconds: dict[str, Side] = field(default_factory=dict)
    clauses: dict[Key, Side] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    unsettled: dict[Union[str, Key], frozenset[str]] = field(default_factory=dict)

    def moved(self, run: Side) -> list[Move]:
        """What moved with a run, which becomes the baseline of that."""
        said = [*self._numbers(run), *self._clauses(run)]
        found = [move for way in ORDER for at, move in said if at == way]
        found += self._seconds(run)
        names = history.configurations(run.reference.histories)
        if run.good:
            for name in names:
                self.numbers.setdefault(name, run)
                if history.of(run.reference.histories, name)["seconds"].notna().any():
                    self.seconds.setdefault(name, run)
            for key in clauses(run.reference.judgements):
                self.clauses.setdefault(key, run)
        self.waiting = {name: None for name in [*self.waiting, *names] if name not in self.numbers}
        return found

    def _numbers(self, run: Side) -> list[tuple[Way, Move]]:
        said = list[tuple[Way, Move]]()
        for baseline, names in _by_baseline(self.numbers, history.configurations(run.reference.histories)):
            found = number_moves(baseline, run, names)
            for move in found:
                if move.way in {Way.WORSE, Way.BETTER}:
                    said.append((move.way, Move(f"{move.configuration}, {move.number}", f"{move.change} ({move.way})")))
                    affected = names if move.together else [move.configuration]
                    self.numbers.update(dict.fromkeys(affected, run))
            for name in names:
                why = _unsettled([move for move in found if move.configuration == name])
                if self.numbers[name] is run:
                    self.unsettled.pop(name, None)
                    continue
                said += self._settle(name, name, why)
                if why and run.good and _tells_more(run, baseline, name, found):
                    self.numbers[name] = run
                    self.unsettled.pop(name)
        return said

    def _clauses(self, run: Side) -> list[tuple[Way, Move]]:
        said = list[tuple[Way, Move]]()
        judged = clauses(run.reference.judgements)
        for baseline, keys in _by_baseline(self.clauses, self.clauses):
            found = {(move.finding, move.recipe, move.clause): move for move in verdict_moves(baseline, run)[0]}
            for key in keys:
                finding, recipe, clause = key
                what, move = f"{finding} ({recipe}), {clause}", found.get(key)
                how = f"{move.before} -> {move.after}" if move else ""
                if move and move.way in {Way.WORSE, Way.BETTER}:
                    said.append((move.way, Move(what, how)))
                    self.clauses[key] = run
                    self.unsettled.pop(key, None)
                elif move or key in judged:
                    unsettled = move is not None and move.way == Way.UNSETTLED
                    said += self._settle(key, what, {how: how} if unsettled else {})
                    if unsettled and run.good and len(run.seeds) > len(baseline.seeds) and key in judged:
                        self.clauses[key] = run
                        self.unsettled.pop(key)
        return said

    def _settle(self, key: Union[str, Key], what: str, why: Mapping[str, str]) -> list[tuple[Way, Move]]:
        """List what is newly not settled, and that nothing is any more; ``why``: each such thing -> in words."""
        before = self.unsettled.pop(key, frozenset())
        if why:
            self.unsettled[key] = frozenset(why)
        if not why.keys() <= before:
            words = dict.fromkeys(why.values())
            return [(Way.UNSETTLED, Move(what, f"{'; '.join(words)} ({Way.UNSETTLED})"))]
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
        The runs with which something moved, and sentences about configurations that have no baseline.
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
    lacking = [
        f"No baseline, as no run made like {line.like.name} passed that has them: {shorten([*line.waiting])}."
        for line in lines
        if line.waiting
    ]
    return events, lacking


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


def _unsettled(moves: Sequence[NumberMove]) -> dict[str, str]:
    """Each number of a configuration that is not settled -> why, in words that numbers share."""
    found: dict[str, tuple[str, str]] = {}
    for move in moves:
        if move.way != Way.UNSETTLED:
            continue
        if move.deviation is None:
            found[move.number] = move.why, ""
        elif move.deviation.status == Status.NOT_MEASURED:
            found[move.number] = "", Status.NOT_MEASURED
        elif move.deviation.status != Status.NO_NUMBER:  # neither has one: nothing moved
            found[move.number] = "", "too few seeds to tell"
    said = {}
    for number, (why, reason) in found.items():
        alike = [other for other, (_, its) in found.items() if its == reason]
        said[number] = why or f"{number if len(alike) == 1 else f'{len(alike)} numbers'}: {reason}"
    return said


def _tells_more(run: Side, baseline: Side, name: str, found: Sequence[NumberMove]) -> bool:
    """Whether a run is the better baseline, as what there is cannot be compared with it or has fewer seeds."""
    mine, theirs = (len(history.seeds(history.of(side.reference.histories, name))) for side in (run, baseline))
    return mine > theirs or any(move.deviation is None for move in found if move.configuration == name)
