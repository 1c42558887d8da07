"""What moved between two sides, for readers: on a terminal, in markdown, and in JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from kvbench.reference.moves import Moves, NumberMove, SecondsMove, VerdictMove, Way
from kvbench.reference.sides import Side
from kvbench.reference.status import Status
from kvbench.reference.tolerances import TOLERANCES
from kvbench.reporting.figures import CURVES, Numbers
from kvbench.reporting.figures import figures as charts
from kvbench.reporting.report import words
from kvbench.reporting.svg import sample
from kvbench.reporting.table import Table
from kvbench.utils.errors import shorten, unknown
from kvbench.utils.text import escape, item, number, wrap

WIDTHS = (18, 23, 12, 12, 9, 16), (30, 10, 10, 10, 20)  # of the columns of numbers and of seconds on a terminal
MOST, MOST_TIMES = 30, 5  # rows of a table on the terminal, of seconds
MOST_ROWS = 200  # of a table in markdown
HEADS = {
    Way.WORSE: "Moved for the worse",
    Way.UNSETTLED: "Not settled",
    Way.BETTER: "Moved for the better",
}
SECONDS = "Seconds of training an epoch"
KINDS = {"numbers": "numbers", "verdicts": "clauses of findings", "times": "seconds"}


def conclusion(moves: Moves) -> str:
    """What came out, in a sentence."""
    counted = [f"{_count(way, moves)} {HEADS[way][0].lower()}{HEADS[way][1:]}" for way in HEADS if _count(way, moves)]
    if moves.way == Way.SAME:
        return f"Nothing moved from {moves.a.name} to {moves.b.name}."
    if moves.way == Way.BETTER:
        return f"Nothing moved for the worse from {moves.a.name} to {moves.b.name}: {'; '.join(counted)}."
    return f"{HEADS[moves.way]} from {moves.a.name} to {moves.b.name}: {'; '.join(counted)}."


def _count(way: Way, moves: Moves) -> str:
    numbers, verdicts, seconds = moves.of(way)
    names = list(dict.fromkeys(move.configuration for move in numbers))
    parts = [f"{len(numbers)} number{'s' * (len(numbers) > 1)} of {shorten(names)}"] if numbers else []
    parts += [f"{len(verdicts)} clause{'s' * (len(verdicts) > 1)} of findings"] if verdicts else []
    parts += [f"the seconds of {shorten([move.ratio.configuration for move in seconds])}"] if seconds else []
    return ", ".join(parts)


def about(side: Side) -> str:
    """A side in a line: what it was asked for by, where it was found, and what it is."""
    told = [f"{name} {value}" if name not in {"outcome"} else value for name, value in side.about.items()]
    place = f" ({side.source})" if side.source != side.name else ""
    return f"{side.name}{place}: {', '.join(told)}"


def number_table(rows: Sequence[NumberMove]) -> Table:
    """Numbers of both sides, with what the baseline allows."""
    return Table(("configuration", "number", "A", "B", "change", "allowed", "against"), [_cells(row) for row in rows])


def _cells(move: NumberMove) -> list[str]:
    if move.deviation is None:
        return [move.configuration, move.number, "-", "-", "-", "-", move.why]
    _, name, obtained, expected, difference, allowed, against, *_ = move.deviation.row()
    return [move.configuration, name, expected, obtained, difference, allowed, against]


def verdict_table(rows: Sequence[VerdictMove]) -> Table:
    """Clauses whose verdicts are not the same."""
    cells = [[row.finding, row.recipe, row.clause, row.before, row.after, row.evidence] for row in rows]
    return Table(("finding", "recipe", "clause", "A", "B", "evidence in B"), cells)


def seconds_table(rows: Sequence[SecondsMove]) -> Table:
    """Seconds of both sides, with ratio and interval."""
    return Table(("configuration", "A", "B", "ratio", "95% interval"), [_times(row) for row in rows])


def _times(move: SecondsMove) -> list[str]:
    ratio = move.ratio
    cells = [number(value, ".3g", missing="-") for value in (ratio.before, ratio.after)]
    interval = f"{ratio.low:.2f}x to {ratio.high:.2f}x" if math.isfinite(ratio.high - ratio.low) else "-"
    return [ratio.configuration, *cells, number(ratio.ratio, ".2f", missing="-") + "x", interval]


def seen(moves: Moves) -> str:
    """What would have been seen: of each number how far it might have moved unseen, median over configurations."""
    told = []
    for tolerance in TOLERANCES:
        found = [move.deviation for move in moves.numbers if move.deviation and move.deviation.tolerance == tolerance]
        ends = [(one.low, one.high) for one in found if math.isfinite(one.high - one.low)]
        if not ends:
            continue
        low, high = (np.array(side) for side in zip(*ends, strict=True))
        if tolerance.loss:
            half = float(np.median(np.log(high) - np.log(low))) / 2
            told.append(f"{tolerance.name} {number(math.expm1(min(half, 9)) * 100, '.2g')}%")
        else:
            told.append(f"{tolerance.name} {number(float(np.median(high - low) / 2), '.2g')}")
    return f"Moves larger than these are seen (median over configurations): {'; '.join(told)}." if told else ""


def same(moves: Moves) -> str:
    """How much did not move, and how far it might have."""
    numbers = len(moves.of(Way.SAME)[0])
    return f"The same: {numbers} numbers, {moves.same_clauses} clauses of findings. {seen(moves)}".strip()


def overall(moves: Moves) -> str:
    """Seconds in a sentence."""
    times = [move.ratio.ratio for move in moves.seconds if move.ratio.ratio > 0]
    if not times:
        return ""
    mean = math.exp(math.fsum(map(math.log, times)) / len(times))
    gated = any(move.way != Way.SAME for move in moves.seconds)
    rest = "" if gated else " They describe, and decide nothing."
    return f"B takes {mean:.2f} times as long as A (geometric mean of {len(times)} configurations).{rest}"


def terminal(moves: Moves) -> str:
    """What moved, in lines of at most `SCREEN` characters."""
    parts = ["\n".join(wrap(f"{letter}  {about(side)}", 3) for letter, side in (("A", moves.a), ("B", moves.b)))]
    for way, head in HEADS.items():
        numbers, verdicts, seconds = moves.of(way)
        if numbers or verdicts or seconds:
            parts.append(f"{head}:")
        measured = [move for move in numbers if move.deviation]
        if measured:
            table = Table(number_table([]).headers[:-1], [_cells(move)[:-1] for move in measured[:MOST]])
            parts.append(table.terminal(WIDTHS[0]) + _left(len(measured), MOST))
        lines = [f"{move.configuration}: {move.why}" for move in numbers if not move.deviation]
        lines += [
            f"{move.finding} ({move.recipe}), {move.clause}: {move.before} -> {move.after}. {move.evidence}"
            for move in verdicts
        ]
        lines += ["{}: {} -> {} seconds an epoch, {} ({})".format(*_times(move)) for move in seconds]
        if lines:
            parts.append("\n".join(wrap(line, 4) for line in lines[:MOST]) + _left(len(lines), MOST))
    parts.append(wrap(same(moves)))
    if told := overall(moves):
        farthest = sorted(moves.seconds, key=lambda move: -abs(math.log(move.ratio.ratio or 1)))[:MOST_TIMES]
        table = seconds_table([move for move in farthest if move.ratio.ratio > 0])
        parts.append(f"{wrap(f'{SECONDS}: {told}')}\n{table.terminal(WIDTHS[1])}")
    parts += [wrap(f"Note: {note}", 2) for note in _notes(moves)]
    return "\n\n".join([*parts, wrap(conclusion(moves))])


def _notes(moves: Moves) -> list[str]:
    differing = f"B's surroundings differ: {'; '.join(moves.surroundings)}" if moves.surroundings else ""
    return [*moves.notes, *([differing] if differing else [])]


def _left(count: int, most: int) -> str:
    return f"\n... and {count - most:,} more: --format json has all" if count > most else ""


def _tables(moves: Moves, way: Way) -> dict[str, Table]:
    """What went one way, in tables that have rows."""
    numbers, verdicts, seconds = moves.of(way)
    found = {"numbers": number_table(numbers), "verdicts": verdict_table(verdicts), "times": seconds_table(seconds)}
    return {name: table for name, table in found.items() if table.rows}


def _more(table: Table) -> str:
    left = len(table.rows) - MOST_ROWS
    return f"{left:,} more: --format json has all." if left > 0 else ""


def markdown(moves: Moves) -> str:
    """What moved, in markdown: for a summary or a comment."""
    parts = [f"# kvbench: {escape(moves.b.name)} against {escape(moves.a.name)}", f"**{escape(conclusion(moves))}**"]
    parts.append("\n".join(item(f"{letter}: {about(side)}") for letter, side in (("A", moves.a), ("B", moves.b))))
    for way, head in HEADS.items():
        tables = _tables(moves, way).values()
        parts += [f"## {head}"] if tables else []
        for table in tables:
            parts.append(Table(table.headers, table.rows[:MOST_ROWS]).markdown())
            parts += [more] if (more := _more(table)) else []
    parts.append(same(moves))
    if told := overall(moves):
        parts += [f"## {SECONDS}", told, seconds_table(moves.seconds[:MOST_ROWS]).markdown()]
    if notes := _notes(moves):
        parts += ["## Notes", "\n".join(map(item, notes))]
    return "\n\n".join(parts) + "\n"


def as_json(moves: Moves) -> str:
    """Everything that was compared, for programs: numbers as numbers, null where there is none."""
    numbers = []
    for move in moves.numbers:
        one = move.deviation
        ends = ("expected", "obtained", "low", "high")
        values = {name: getattr(one, name) if one else math.nan for name in ends}
        told = {"configuration": move.configuration, "number": move.number, "way": move.way.value,
                "a": values["expected"], "b": values["obtained"], "low": values["low"], "high": values["high"],
                "status": one.status.value if one else move.way.value if move.together else Status.NOT_MEASURED.value,
                "by_seed": bool(one and one.paired), "why": move.why}  # fmt: skip
        numbers.append(told)
    content = {
        "outcome": moves.way.value,
        "exit": moves.exit,
        "conclusion": conclusion(moves),
        **{
            letter: {"name": side.name, "source": side.source, **side.about}
            for letter, side in (("a", moves.a), ("b", moves.b))
        },
        "numbers": numbers,
        "clauses_compared": moves.judged,
        "verdicts": [{**asdict(move), "way": move.way.value} for move in moves.verdicts],
        "seconds": [{**asdict(move.ratio), "way": move.way.value} for move in moves.seconds],
        "notes": list(moves.notes),
        "surroundings": list(moves.surroundings),
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same without what JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(moves: Moves) -> str:
    """What moved as a page of HTML, with the curves of both sides; its size is bounded, as that of a report's is."""
    from kvbench.reporting.html import drawn, render  # here, so that the terminal does without

    old, new = moves.a.reference, moves.b.reference
    numbers = Numbers(new.histories, new.design, new.costs, old.histories, f"{moves.a.name} (A)")
    figures = [replace(figure, table="numbers") for figure in charts(numbers) if figure.id in CURVES]
    every = number_table(moves.numbers)
    moved = [
        (
            f"{way.name.lower()}-{kind}",
            f"{head}: {KINDS[kind]}",
            Table(table.headers, table.rows[:MOST_ROWS]),
            _more(table),
        )
        for way, head in HEADS.items()
        for kind, table in _tables(moves, way).items()
    ]
    return render(
        "moves.html",
        f"{moves.b.name} against {moves.a.name}",
        good=moves.exit == 0,
        conclusion=conclusion(moves),
        sides=[f"{letter}: {about(side)}" for letter, side in (("A", moves.a), ("B", moves.b))],
        moved=moved,
        same=same(moves),
        students=[(student, sample(index)) for student, index in numbers.styles.items()],
        groups=numbers.groups,
        left_out=numbers.left_out,
        figures=[drawn(figure) for figure in figures],
        numbers=Table(every.headers, every.rows[:MOST_ROWS]),
        more=_more(every),
        times=seconds_table(moves.seconds[:MOST_ROWS]),
        seconds=SECONDS,
        overall=overall(moves),
        notes=_notes(moves),
        provenance=[(f"{letter}: {side.name}", words(side.reference.histories, side.reference.design,
                                                     {**side.reference.provenance,
                                                      "workload": side.reference.workload}))
                    for letter, side in (("A", moves.a), ("B", moves.b))],
    )  # fmt: skip


def one_table(moves: Moves) -> Table:
    """All numbers and seconds, and the verdicts that are not the same, with the way that each went."""
    rows = [[*_cells(move), move.way] for move in moves.numbers]
    for verdict in moves.verdicts:
        cells = [verdict.clause, verdict.before, verdict.after, "-", "-", verdict.evidence]
        rows.append([f"{verdict.finding} ({verdict.recipe})", *cells, verdict.way])
    for timed in moves.seconds:
        name, *cells = _times(timed)
        rows.append([name, "seconds", *cells, "-", timed.way])
    headers = ("what", "number", "A", "B", "change", "allowed, or 95% interval", "against, or evidence", "way")
    return Table(headers, rows)


FORMATS: dict[str, Callable[[Moves], str]] = {
    "text": terminal,
    "markdown": markdown,
    "json": as_json,
    "csv": lambda moves: one_table(moves).csv(),
    "latex": lambda moves: one_table(moves).latex(),
}


def formatted(moves: Moves, form: str) -> str:
    """What moved as one of `FORMATS`; raises `UserError` naming them."""
    if form not in FORMATS:
        raise unknown("format of a comparison", form, FORMATS)
    return FORMATS[form](moves)
