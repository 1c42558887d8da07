"""The saved runs of a machine, one after the other: gates, verdicts and seconds, and when each moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kvbench.reference.moves import Way, moves
from kvbench.reference.sides import References, Side, of_saved
from kvbench.reference.status import Status
from kvbench.reference.timing import timings
from kvbench.reporting.figures import CURVES, MOST_LINES, Axis, Figure, Line, Lines
from kvbench.reporting.svg import sample
from kvbench.reporting.table import Table
from kvbench.results import history, saved, storage
from kvbench.stats.intervals import Floats
from kvbench.utils.errors import UserError, shorten
from kvbench.utils.text import number, wrap

WIDTHS = [20, 10, 8, 11, 28, 10]  # of the columns on a terminal
MOST_RUNS, MOST_ROWS = 60, 200  # columns of a table in the page, the last ones; rows
COLUMNS = ("machine", "run", "date", "commit", "study", "workload", "outcome", "kind", "name", "value")
SECONDS = "seconds"


@dataclass(frozen=True)
class Event:
    """What moved with a run: each against the last run before which nothing of the kind moved."""

    run: str
    texts: Sequence[str]


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
    def events(self) -> list[Event]:
        """When what moved."""
        found = []
        anchor = self.runs[0]
        for before, run in zip(self.runs, self.runs[1:], strict=False):
            texts = [f"{before.outcome} -> {run.outcome}"] if before.outcome != run.outcome else []
            try:
                moved = _moved(anchor, run)
            except UserError as error:
                moved, anchor = [f"a new start, {error}"], run
            whole = {*history.configurations(anchor.reference.histories)}
            if moved and whole <= {*history.configurations(run.reference.histories)}:
                anchor = run
            if texts + moved:
                found.append(Event(run.name, texts + moved))
        return found

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
        """Losses, accuracies and seconds over the runs.

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
                drawn.append(Figure(f"{id_}-{metric}", title, caption, panels, table=f"{id_}-runs"))
        return drawn

    def _line(self, name: str, student: str, style: int, metric: str) -> Line:
        cells = {place: self.last(run, name, metric) for place, run in enumerate(self.runs, 1)}
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
        return Table(
            ("run", "date", "commit", "outcome", "verdicts", "s an epoch"), [self._row(run) for run in self.runs]
        )

    def _row(self, run: Side) -> list[str]:
        verdicts = [row[run.name] for row in self.verdicts.values() if run.name in row]
        counted = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(sorted(verdicts)))
        seconds = [
            cells.mean() for name in self.names if len(cells := self.last(run, name, SECONDS)) and cells.min() > 0
        ]
        mean = number(float(np.exp(np.mean(np.log(seconds)))), ".3g") if seconds else "-"
        return [run.name, run.fact("date")[:10], run.commit or "-", str(run.outcome), counted or "-", mean]

    def gate(self, run: Side, name: str) -> str:
        """How a configuration stood to the reference that there was."""
        if name not in run.drifted:
            return "not compared"
        return f"{Status.DRIFTED}: {', '.join(run.drifted[name])}" if run.drifted[name] else Status.WITHIN.value

    def by_run(self) -> dict[str, tuple[str, Table]]:
        """Gates and verdicts: title and table, with a column for each of the last `MOST_RUNS` runs."""
        runs = self.runs[-MOST_RUNS:]
        compared = any(run.drifted for run in runs)
        gates = [[name, *(self.gate(run, name) for run in runs)] for name in self.names[: MOST_ROWS * compared]]
        verdicts = [[f"{finding} ({recipe})", *(row.get(run.name, "-") for run in runs)]
                    for (finding, recipe), row in self.verdicts.items()][:MOST_ROWS]  # fmt: skip
        heads = [run.name for run in runs]
        found = {"gates": ("Gates: against the reference of its time", Table(("configuration", *heads), gates)),
                 "verdicts": ("Verdicts", Table(("finding", *heads), verdicts))}  # fmt: skip
        return {name: (title, table) for name, (title, table) in found.items() if table.rows}

    def rows(self) -> list[list[str]]:
        """Everything under `COLUMNS`: outcomes, verdicts, and of each configuration last numbers and seconds."""
        found = []
        for run in self.runs:
            head = [self.machine, run.name, run.fact("date"), run.fact("commit"), self.study, self.workload]
            head.append(str(run.outcome))
            found.append([*head, "outcome", "", str(run.outcome)])
            found += [[*head, "verdict", f"{finding} ({recipe})", row[run.name]]
                      for (finding, recipe), row in self.verdicts.items() if run.name in row]  # fmt: skip
            for name in history.configurations(run.reference.histories):
                found.append([*head, "gate", name, self.gate(run, name)])
                for metric in history.METRICS:
                    cells = self.last(run, name, metric)
                    found += [[*head, metric, name, history.DIGITS % cells.mean()]] if len(cells) else []
        return found


def _moved(anchor: Side, run: Side) -> list[str]:
    """What moved between two runs, a phrase each."""
    found = moves(anchor, run, allow_failed=True)
    said = []
    for way in (Way.WORSE, Way.BETTER):
        numbers, verdicts, _ = found.of(way)
        said += [f"{move.configuration}, {move.number}: {move.change} ({way})" for move in numbers]
        said += [f"{move.finding} ({move.recipe}), {move.clause}: {move.before} -> {move.after}" for move in verdicts]
    times = timings(run.reference.histories, anchor.reference.histories)
    return said + [
        f"{time.configuration}, seconds over the run's mean: {time.expected:.2f} -> {time.obtained:.2f}"
        for time in times if time.status in {Status.SLOWER, Status.FASTER}
    ]  # fmt: skip


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
        lines = [wrap(f"{event.run}: {text}", 4) for event in timeline.events for text in event.texts]
        parts.append("\n".join(["Moved:", *lines]) if lines else "Nothing moved.")
    parts += [wrap(f"Skipped: {text}", 2) for text in skipped]
    return "\n\n".join(parts)


def csv(timelines: Sequence[Timeline], _skipped: Sequence[str] = ()) -> str:
    """Everything for a spreadsheet: a row a number."""
    return Table(COLUMNS, [row for timeline in timelines for row in timeline.rows()]).csv() + "\n"


def page(timelines: Sequence[Timeline], skipped: Sequence[str]) -> str:
    """The timelines as a page of HTML, with figures."""
    from kvbench.reporting.html import drawn, render  # here, so that the terminal does without

    students = dict.fromkeys(student for timeline in timelines for block in timeline.blocks.values()
                             for student in list(block)[:MOST_LINES])  # fmt: skip
    styles = {student: index for index, student in enumerate(students)}
    parts = [{
        "id": f"t{place}",
        "title": timeline.title,
        "events": [(event.run, event.texts) for event in timeline.events],
        "figures": [drawn(figure) for figure in timeline.figures(f"t{place}", styles)],
        "runs": timeline.table(),
        "by_run": timeline.by_run(),
        "left_out": len(timeline.runs) - MOST_RUNS,
    } for place, timeline in enumerate(timelines, 1)]  # fmt: skip
    many = any(len(block) > MOST_LINES for timeline in timelines for block in timeline.blocks.values())
    return render(
        "timeline.html",
        "saved runs",
        timelines=parts,
        skipped=skipped,
        students=[(student, sample(index)) for student, index in styles.items()],
        left_out=[f"Of each recipe the first {MOST_LINES} configurations are drawn."] if many else [],
    )
