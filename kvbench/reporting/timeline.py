"""The saved runs of a machine, one after the other: gates, verdicts and seconds, and when each moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvbench.reference.over_time import Event, gate, over_time
from kvbench.reference.sides import References, Side, of_saved
from kvbench.reference.status import Status
from kvbench.reporting.figures import CURVES, MOST_LINES, Axis, Figure, Line, Lines
from kvbench.reporting.svg import sample
from kvbench.reporting.table import Table
from kvbench.results import history, saved, storage
from kvbench.stats.intervals import Floats
from kvbench.utils.errors import UserError, shorten
from kvbench.utils.text import number, wrap

HEADERS = ("run", "date", "commit", "outcome", "verdicts", "s an epoch")
WIDTHS = [20, 10, 8, 11, 28, 10]  # of the columns on a terminal
MOST_RUNS, MOST_ROWS = 60, 200  # that a page shows, the last ones; rows of a table in it
MOST_MOVES = 20  # of a run that are listed: where everything moved, the CSV has it all
COLUMNS = ("machine", "run", "date", "commit", "study", "workload", "outcome", "kind", "name", "value")
SECONDS = "seconds"


class Square(NamedTuple):
    """What a gate or a verdict was in a run, for a coloured square: a word, and what more there is to say."""

    verdict: str
    number: str = ""
    sure: bool = False  # as the squares of a sweep may be


class ByRun(NamedTuple):
    """Rows of a name and squares, one for each run."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Square]]]


@dataclass(frozen=True)
class Timeline:
    """The runs of one study and workload on one machine, in the order in which they were saved."""

    machine: str
    study: str
    workload: str
    runs: Sequence[Side]

    @property
    def title(self) -> str:
        """What it is about."""
        return f"{self.workload} ({self.study or 'study unknown'}) on {self.machine}"

    @cached_property
    def names(self) -> list[str]:
        """All configurations, in the order of the tables."""
        names = dict.fromkeys(name for run in self.runs for name in history.configurations(run.reference.histories))
        blocks = self.runs[-1].reference.design.blocks(list(names)).values()
        return [name for block in blocks for name in block.values()]

    @cached_property
    def _over_time(self) -> tuple[list[Event], list[str]]:
        return over_time(self.runs)

    @property
    def events(self) -> list[Event]:
        """When what moved."""
        return self._over_time[0]

    @property
    def remarks(self) -> list[str]:
        """What else is to be said of what moved: that nothing did, or that there is nothing to compare with."""
        said = [] if self.events else ["Nothing moved." if len(self.runs) > 1 else "There is one run, so none before."]
        return [*said, *self._over_time[1]]

    def last(self, run: Side, name: str, metric: str) -> Floats:
        """(S,) a metric of a configuration at its last epoch, or the median seconds of each seed; finite ones alone."""
        rows = history.of(run.reference.histories, name)
        if metric == SECONDS:
            cells = rows.groupby("seed")[metric].median().to_numpy(dtype=np.float64)
        else:
            cells = rows.loc[rows["epoch"] == rows["epoch"].max(), metric].to_numpy(dtype=np.float64)
        return np.asarray(cells[np.isfinite(cells)], dtype=np.float64)

    @property
    def blocks(self) -> dict[str, dict[str, str]]:
        """Recipe -> student -> configuration."""
        return self.runs[-1].reference.design.blocks(self.names)

    def figures(self, id_: str, styles: Mapping[str, int]) -> list[Figure]:
        """Losses, accuracies and seconds over the last `MOST_RUNS` runs.

        ``id_`` makes their ids unique in a page; ``styles`` are the students'.
        """
        drawn = []
        for metric, label in {**CURVES, SECONDS: "seconds of training an epoch"}.items():
            axes = Axis("run"), Axis(label, log=metric in (*history.LOSSES, SECONDS))
            panels = []
            for recipe, block in self.blocks.items():
                lines = [self._line(name, student, styles[student], metric)
                         for student, name in list(block.items())[:MOST_LINES]]  # fmt: skip
                panels.append(Lines(recipe or "others", *axes, [line for line in lines if len(line.x)]))
            if any(panel.lines for panel in panels):
                title = f"{label.partition(' (')[0].capitalize()}{'' if metric == SECONDS else ' after the last epoch'}"
                caption = f"{title}, run by run: mean over seeds, band from the lowest to the highest."
                drawn.append(Figure(f"{id_}-{metric}", title, caption, panels, table=f"{id_}-{metric}"))
        return drawn

    @property
    def shown(self) -> list[tuple[int, Side]]:
        """The runs that a page shows, the last ones, each with its place among all."""
        return list(enumerate(self.runs, 1))[-MOST_RUNS:]

    def numbers(self, figure: Figure) -> Table:
        """A figure's numbers: a row for each line, a column for each run, the mean over seeds and the range."""
        rows = []
        for line in [line for panel in figure.panels if isinstance(panel, Lines) for line in panel.lines][:MOST_ROWS]:
            cells = {}
            for place, mean, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
                ends = f" ({number(low)} to {number(high)})" if high > low else ""
                cells[int(place)] = f"{number(mean)}{ends}"
            rows.append([line.name, *(cells.get(place, "-") for place, _ in self.shown)])
        return Table(("configuration", *(run.name for _, run in self.shown)), rows)

    def _line(self, name: str, student: str, style: int, metric: str) -> Line:
        cells = {place: self.last(run, name, metric) for place, run in self.shown}
        cells = {place: some for place, some in cells.items() if len(some)}
        ends = [np.array([end(some) for some in cells.values()]) for end in (np.mean, np.min, np.max)]
        return Line(name, student, style, np.array([*cells], dtype=np.float64), *ends)

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], dict[str, str]]:
        """Finding and recipe -> run -> verdict."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for run in self.runs:
            for judgement in run.reference.judgements:
                found.setdefault((judgement.finding.id, judgement.recipe), {})[run.name] = judgement.verdict.value
        return found

    def table(self) -> Table:
        """A row a run."""
        return Table(HEADERS, [self._row(run) for run in self.runs])

    def numbered(self) -> Table:
        """The same of the runs that a page shows, with their places in the figures."""
        return Table(("no.", *HEADERS), [[str(place), *self._row(run)] for place, run in self.shown])

    def _row(self, run: Side) -> list[str]:
        verdicts = [row[run.name] for row in self.verdicts.values() if run.name in row]
        counted = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(sorted(verdicts)))
        seconds = [
            cells.mean() for name in self.names if len(cells := self.last(run, name, SECONDS)) and cells.min() > 0
        ]
        mean = number(float(np.exp(np.mean(np.log(seconds)))), ".3g") if seconds else "-"
        return [run.name, run.fact("date")[:10], run.commit or "-", str(run.outcome), counted or "-", mean]

    def by_run(self) -> dict[str, ByRun]:
        """Gates and verdicts, with a column for each of the runs that a page shows."""
        runs = [run for _, run in self.shown]
        compared = any(run.drifted for run in runs)
        gates = [(name, [_gate(run, name) for run in runs])
                 for name in self.names[: MOST_ROWS * compared]]  # fmt: skip
        verdicts = [(f"{finding} ({recipe})", [Square(row.get(run.name, Status.NOT_JUDGED.value)) for run in runs])
                    for (finding, recipe), row in self.verdicts.items()][:MOST_ROWS]  # fmt: skip
        heads = [run.name for run in runs]
        found = {"gates": ByRun("Gates: against the reference of its time", ["configuration", *heads], gates),
                 "verdicts": ByRun("Verdicts", ["finding", *heads], verdicts)}  # fmt: skip
        return {name: one for name, one in found.items() if one.rows}

    def rows(self) -> list[list[str]]:
        """Everything under `COLUMNS`: outcomes, what moved, verdicts, gates, last numbers and seconds."""
        found = []
        moved = {event.run: event.moves for event in self.events}
        for run in self.runs:
            head = [self.machine, run.name, run.fact("date"), run.fact("commit"), self.study, self.workload]
            head.append(str(run.outcome))
            found.append([*head, "outcome", "", str(run.outcome)])
            found += [[*head, "moved", move.what, move.how] for move in moved.get(run.name, ())]
            found += [[*head, "verdict", f"{finding} ({recipe})", row[run.name]]
                      for (finding, recipe), row in self.verdicts.items() if run.name in row]  # fmt: skip
            for name in history.configurations(run.reference.histories):
                found.append([*head, "gate", name, gate(run, name)])
                for metric in history.METRICS:
                    cells = self.last(run, name, metric)
                    found += [[*head, metric, name, history.DIGITS % cells.mean()]] if len(cells) else []
        return found


def _gate(run: Side, name: str) -> Square:
    word, _, metrics = gate(run, name).partition(": ")
    return Square(word, metrics)


def listed(event: Event) -> list[str]:
    """What moved with a run, in words; of more than `MOST_MOVES` the first."""
    left = len(event.moves) - MOST_MOVES
    return [str(move) for move in event.moves[:MOST_MOVES]] + ([f"and {left} more (--csv has all)"] if left > 0 else [])


def read(folder: Path, references: References) -> tuple[list[Timeline], list[str]]:
    """Read all saved runs of a folder of pytest-benchmark's, or of one machine's folder in it.

    Returns:
        A timeline for each machine, study and workload, and why files were skipped, a sentence each.

    Raises:
        UserError: there is no run that can be read.
    """
    paths = storage.files(folder) or sorted(path for path in folder.glob("*.json") if storage.is_file(path))
    groups: dict[tuple[str, str, str], list[Side]] = {}
    skipped = []
    for path in paths:
        try:
            run = of_saved(path.stem, path, saved.read(path), references)
        except UserError as error:
            skipped.append(str(error))
            continue
        groups.setdefault((path.absolute().parent.name, run.study, run.reference.workload), []).append(run)
    if not groups:
        why = f" Skipped: {shorten(skipped)}" if skipped else " Save one with: pytest benchmarks/ --benchmark-save=NAME"
        raise UserError(f"There is no saved run of kvbench in {folder}.{why}")
    return [Timeline(*key, runs) for key, runs in groups.items()], skipped


def terminal(timelines: Sequence[Timeline], skipped: Sequence[str]) -> str:
    """Runs and when what moved, in lines of at most `SCREEN` characters."""
    parts = []
    for timeline in timelines:
        parts += [wrap(f"{timeline.title}:"), timeline.table().terminal(WIDTHS)]
        lines = [wrap(f"{event.run}: {text}", 4) for event in timeline.events for text in listed(event)]
        parts += ["\n".join(["Moved:", *lines])] if lines else []
        parts += [wrap(text) for text in timeline.remarks]
    parts += [wrap(f"Skipped: {text}", 2) for text in skipped]
    return "\n\n".join(parts)


def csv(timelines: Sequence[Timeline], _skipped: Sequence[str] = ()) -> str:
    """Everything for a spreadsheet: a row a number."""
    return Table(COLUMNS, [row for timeline in timelines for row in timeline.rows()]).csv() + "\n"


def page(timelines: Sequence[Timeline], skipped: Sequence[str]) -> str:
    """The timelines as a page of HTML, with figures."""
    from kvbench.reporting.html import render  # here, so that the terminal does without

    students = dict.fromkeys(student for timeline in timelines for block in timeline.blocks.values()
                             for student in list(block)[:MOST_LINES])  # fmt: skip
    styles = {student: index for index, student in enumerate(students)}
    parts = [_part(timeline, f"t{place}", styles) for place, timeline in enumerate(timelines, 1)]
    many = any(len(block) > MOST_LINES for timeline in timelines for block in timeline.blocks.values())
    return render(
        "timeline.html",
        "saved runs",
        timelines=parts,
        skipped=skipped,
        students=[(student, sample(index)) for student, index in styles.items()],
        left_out=[f"Of each recipe the first {MOST_LINES} configurations are drawn."] if many else [],
    )


def _part(timeline: Timeline, id_: str, styles: Mapping[str, int]) -> dict[str, Any]:
    """A timeline for the template."""
    from kvbench.reporting.html import drawn

    figures = timeline.figures(id_, styles)
    shown = {run.name for _, run in timeline.shown}
    return {
        "id": id_,
        "title": timeline.title,
        "events": [(event.run, listed(event)) for event in timeline.events if event.run in shown],
        "remarks": timeline.remarks,
        "figures": [drawn(figure) for figure in figures],
        "numbers": [(figure.table, f"{figure.title}: mean (lowest to highest seed)", timeline.numbers(figure))
                    for figure in figures],
        "runs": timeline.numbered(),
        "by_run": timeline.by_run(),
        "left_out": len(timeline.runs) - len(shown),
    }  # fmt: skip
