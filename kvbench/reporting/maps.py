"""Maps of findings over a grid: where each holds, where it fails, where it is undecided. As markdown and as a table."""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from kvbench.findings.clauses import Verdict, format_margin
from kvbench.findings.curves import Costs
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.judge import FAMILY_ERROR, Judgement, judge
from kvbench.reference import verdicts
from kvbench.reporting.table import Table
from kvbench.results import history
from kvbench.stats.intervals import exact_mean
from kvbench.utils.errors import UserError, describe
from kvbench.utils.files import atomic_write, write_text
from kvbench.utils.text import WIDTH, Marked, escape, item, markdown_table, number

if TYPE_CHECKING:
    from kvbench.studies.grid import Cell, Grid

DECIDED = (Verdict.HOLDS, Verdict.FAILS)
ORDER = (Verdict.HOLDS, Verdict.FAILS, Verdict.MIXED, Verdict.UNDECIDED)
NO_RESULT = "no result"


@dataclass(frozen=True)
class Square:
    """What a map shows at one place.

    Args:
        judgement: the finding's there; None where it could not be judged.
        sure: whether its verdict stands, too, where all cells share one error rate.
        problem: why it could not be judged, a sentence.
    """

    judgement: Judgement | None
    sure: bool = False
    problem: str = ""

    @property
    def verdict(self) -> str:
        """The verdict, or `NO_RESULT`."""
        return str(self.judgement.verdict) if self.judgement else NO_RESULT

    @property
    def number(self) -> str:
        """The margin of a finding of one clause; else how many clauses hold, and how many undecided ones lean to it."""
        if self.judgement is None:
            return ""
        gating = self.judgement.gating
        if len(gating) == 1:
            return format_margin(gating[0].margin, gating[0].scale)
        leaning = sum(clause.verdict == Verdict.UNDECIDED and clause.margin > 0 for clause in gating)
        return self.judgement.held.replace(" of ", "/") + (f" +{leaning}" if leaning else "")


class Map(NamedTuple):
    """A finding on a plane of the grid: what names it, names of the columns, and rows of a name and squares."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Square]]]


@dataclass(frozen=True)
class Judged:
    """A cell of a grid with what was trained and concluded there.

    Args:
        cell: the values.
        histories: a history frame of its complete trainings; empty where there are none.
        judgements: all findings that could be judged, as one family: this cell is judged as a run.
        shared: the same where all cells of the grid share one error rate.
        problems: configuration -> why it has no complete training, a sentence; under ``""``, why none has.
    """

    cell: Cell
    histories: pd.DataFrame
    judgements: tuple[Judgement, ...] = ()
    shared: tuple[Judgement, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cell: Cell,
        histories: pd.DataFrame,
        problems: Mapping[str, str],
        design: Design,
        findings: Sequence[Finding],
        costs: Costs,
        cells: int,
    ) -> Judged:
        """Judge a cell of a grid of so many ``cells``; what raises an error becomes the cell's problem."""
        if histories.empty:
            return cls(cell, histories, problems=problems)
        try:
            own, shared = (
                tuple(judge(histories, design, costs, findings, error=FAMILY_ERROR / share)) for share in (1, cells)
            )
        except Exception as error:  # a finding of the user's own, say
            reason = str(error) if isinstance(error, UserError) else f"{describe(error)}."
            return cls(cell, histories, problems={"": f"It cannot be judged: {reason}", **problems})
        return cls(cell, histories, own, shared, problems)

    def square(self, finding: Finding, scope: str, needed: Iterable[str]) -> Square:
        """What the map of a finding shows here; ``needed`` are the configurations that it is about."""
        for mine, shared in zip(self.judgements, self.shared, strict=True):
            if mine.finding is finding and mine.recipe == scope:
                return Square(mine, mine.tested and shared.verdict == mine.verdict and mine.verdict in DECIDED)
        reasons = (self.problems[name] for name in ("", *needed) if name in self.problems)
        return Square(None, problem=next(reasons, "It was not trained."))


@dataclass(frozen=True)
class Sweep:
    """A grid that was trained and judged, cell by cell.

    Args:
        grid: which values.
        seeds: of every training.
        findings: those that were judged, in the study's order.
        cells: in the grid's order.
        facts: where the numbers come from, text by name.
    """

    grid: Grid
    seeds: tuple[int, ...]
    findings: tuple[Finding, ...]
    cells: tuple[Judged, ...]
    facts: Mapping[str, str]

    @cached_property
    def design(self) -> Design:
        """The study's."""
        return self.grid.study.design

    def scopes(self, finding: Finding) -> list[str]:
        """What a finding is judged on: recipes, or two recipes that it compares."""
        return list(self.design.scopes(finding))

    def short(self, finding: Finding, scope: str) -> str:
        """A scope for a column: ``both`` where two recipes are compared."""
        return "both" if finding.across else scope

    def squares(self, finding: Finding, scope: str) -> dict[tuple[str, ...], Square]:
        """The map of a finding on a scope: values of the grid's axes, as text -> what is there."""
        needed = self.design.needs(finding)[scope]
        return {self.place(judged.cell): judged.square(finding, scope, needed) for judged in self.cells}

    def place(self, cell: Cell) -> tuple[str, ...]:
        """The values of a cell on the axes, as text."""
        return tuple(cell.texts[name] for name in self.axes)

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """The grid's: the first goes down, the second across, others make facets."""
        return self.grid.axes

    @property
    def facets(self) -> Iterator[tuple[str, ...]]:
        """The values of the axes beyond the second; one empty tuple where there are no more."""
        return itertools.product(*list(self.axes.values())[2:])

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row a cell, finding, recipe and clause that counts.

        The columns are the grid's fields, those of ``verdicts.csv`` (margin, its 95% interval, n, p, level), ``shared``
        (the verdict where all cells share one error rate) and ``problem``. What could not be judged is a row without a
        clause.
        """
        rows: list[dict[str, Any]] = []
        for judged in self.cells:
            place = judged.cell.texts
            shared = verdicts.clauses(judged.shared)
            for row in verdicts.frame(judged.judgements).to_dict("records"):
                key = (row["finding"], row["recipe"], row["clause"])
                own: dict[str, Any] = {str(name): value for name, value in row.items()}
                rows.append({**place, **own, "shared": shared[key].verdict.value, "problem": ""})
            for finding in self.findings:
                for scope, needed in self.design.needs(finding).items():
                    if problem := judged.square(finding, scope, needed).problem:
                        rows.append({**place, "finding": finding.id, "recipe": scope, "problem": problem})
        return pd.DataFrame(rows, columns=[*self.grid.values, *verdicts.COLUMNS, "shared", "problem"])

    @property
    def histories(self) -> pd.DataFrame:
        """Everything that was trained: a history frame with the grid's fields before its columns."""
        frames = [judged.histories.assign(**judged.cell.texts) for judged in self.cells if len(judged.histories)]
        columns = [*self.grid.values, *history.COLUMNS]
        return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)

    @property
    def title(self) -> str:
        """Study and workload."""
        return f"{self.grid.study.name} on {self.grid.workload.name}"

    def markdown(self) -> str:
        """The page: what was varied, how each finding came out in short, its maps, the cells, and how to read it."""
        about = "\n".join(item(f"{name}: {text}") for name, text in self.about.items())
        parts = [f"# kvbench sweep: {escape(self.title)}", about, "## Findings", self.overview.markdown()]
        for finding in self.findings:
            parts += [f"## {escape(finding.id)}", textwrap.fill(escape(self.judged_as(finding)), WIDTH)]
            for one in self.maps(finding):
                parts += [f"**{escape(one.caption)}**"] if one.caption else []
                parts.append(markdown_table(one.headers, [[name, *map(_text, row)] for name, row in one.rows]))
        parts += ["## Cells", self.table.markdown()]
        if self.problems:
            parts += ["## Without a result", "\n".join(map(item, self.problems))]
        legend = "\n\n".join(textwrap.fill(text, WIDTH) for text in self.legend)
        return "\n\n".join([*parts, "## How to read this", legend]) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write ``sweep.md``, ``verdicts.csv`` and ``histories.csv`` to a folder; returns their paths.

        Raises:
            UserError: one cannot be written.
        """
        paths = [folder / name for name in ("sweep.md", "verdicts.csv", "histories.csv")]
        write_text(paths[0], self.markdown())
        for path, rows in zip(paths[1:], (self.verdicts, self.histories), strict=True):
            with atomic_write(path) as tmp:
                rows.to_csv(tmp, index=False, float_format=history.DIGITS, lineterminator="\n")
        return paths

    @property
    def about(self) -> dict[str, str]:
        """What was varied, and where the numbers come from."""
        facts = {name: ", ".join(values) for name, values in self.axes.items()}
        facts |= {f"{name}, in all cells": text for name, text in self.grid.fixed.items()}
        facts["cells"] = f"{len(self.cells)}, each judged as a run"
        seeds = ", ".join(map(str, self.seeds))
        facts["seeds"] = seeds if len(self.seeds) > 1 else f"{seeds}; one seed is judged by its sign, without a test"
        return {**facts, **self.facts}

    @property
    def overview(self) -> Table:
        """Each finding in short, and in how many cells it has each verdict."""
        rows = []
        for finding in self.findings:
            for scope in self.scopes(finding):
                squares = self.squares(finding, scope)
                count = Counter(square.verdict for square in squares.values())
                sure = Counter(square.verdict for square in squares.values() if square.sure)
                stands = ", ".join(f"{verdict} in {sure[verdict]}" for verdict in DECIDED if sure[verdict])
                counts = [str(count[verdict] or "-") for verdict in (*ORDER, NO_RESULT)]
                name = self.short(finding, scope)
                rows.append([finding.id, name, in_short(squares, list(self.axes)), *counts, stands or "-"])
        return Table(["finding", "recipe", "in short", *map(str, ORDER), NO_RESULT, "over all cells"], rows)

    def judged_as(self, finding: Finding) -> str:
        """Its sentence, and what makes it exact."""
        return f"{finding.sentence}. Judged as: {finding.describe(self.design.groups)}."

    def maps(self, finding: Finding) -> Iterator[Map]:
        """One for each recipe and each value of the axes beyond the second; of one axis a column for each recipe."""
        maps = {scope: self.squares(finding, scope) for scope in self.scopes(finding)}
        down, *others = self.axes
        if not others:
            headers = [down, *(self.short(finding, scope) for scope in maps)]
            yield Map("", headers, [(value, [maps[scope][(value,)] for scope in maps]) for value in self.axes[down]])
            return
        across, *further = others
        headers = ["", *(f"{across}={x}" for x in self.axes[across])]
        for scope, facet in itertools.product(maps, self.facets):
            caption = [self.short(finding, scope), *(f"{n}={value}" for n, value in zip(further, facet, strict=True))]
            rows = [(f"{down}={y}", [maps[scope][(y, x, *facet)] for x in self.axes[across]]) for y in self.axes[down]]
            yield Map(", ".join(caption), headers, rows)

    @property
    def table(self) -> Table:
        """The cells: how many findings have each verdict, and the best numbers."""
        rows = []
        for judged in self.cells:
            count = Counter(judgement.verdict for judgement in judged.judgements)
            counts = [str(count[verdict] or "-") for verdict in ORDER]
            best = [_best(judged.histories, metric) for metric in ("train_loss", "val_accuracy")]
            rows.append([*self.place(judged.cell), *counts, *best])
        return Table([*self.axes, *map(str, ORDER), "lowest training loss", "best accuracy"], rows)

    @property
    def problems(self) -> list[str]:
        """Each sentence once, after the cells and configurations that it is about."""
        found: dict[str, list[str]] = {}
        for judged in self.cells:
            for name, sentence in judged.problems.items():
                found.setdefault(sentence, []).append(f"{judged.cell.name}{f' ({name})' if name else ''}")
        return [f"{', '.join(places)}: {sentence}" for sentence, places in found.items()]

    @property
    def legend(self) -> list[str]:
        """How to read the maps, paragraphs of markdown."""
        scopes = sum(len(self.scopes(finding)) for finding in self.findings)
        count = len(self.cells)
        return [
            "A map shows the verdict on a finding in each cell, with the margin of a finding of one clause, or else how"
            " many of its clauses hold: 1/4 +2 is one of four, and two more that are undecided and lean to it. A"
            " positive margin, or a ratio above 1, speaks for the finding.",
            f"Each cell is a family by itself, as a run is: its {scopes} judgements share an error rate of"
            f" {FAMILY_ERROR:.0%} by Holm's procedure. That is right for a cell that was chosen beforehand. Over"
            f" {count} cells up to {count * FAMILY_ERROR:.0%} of sweeps have a wrongly decided judgement somewhere, and"
            " the best of many cells looks better than it is. **Bold** verdicts stand where all cells share the"
            f" {FAMILY_ERROR:.0%}; for another cell that was picked from the map, train new seeds before you believe"
            " it.",
            "Undecided is no evidence that a finding fails there: it says that these seeds are too few to tell. Cells"
            " that share seeds and images are not independent.",
        ]


def in_short(squares: Mapping[tuple[str, ...], Square], axes: Sequence[str]) -> str:
    """A map in a few words: whether the verdict is the same in all cells, or which field tells it."""
    judged = {place: square.verdict for place, square in squares.items() if square.judgement}
    found = {*judged.values()}
    every = "every cell" if len(judged) == len(squares) else "every cell with a result"
    if not found:
        return NO_RESULT
    if len(found) == 1:
        return f"{found.pop()} in {every}"
    if {*DECIDED} <= found:
        decided = {place: verdict for place, verdict in judged.items() if verdict in DECIDED}
        telling = [
            name
            for index, name in enumerate(axes)
            if len({(place[index], verdict) for place, verdict in decided.items()})
            == len({place[index] for place in decided})
        ]
        return f"depends on {telling[0]}" if len(telling) == 1 else "depends on the cell"
    if Verdict.HOLDS in found:
        return "holds in some cells, fails in none"
    return "fails in some cells, holds in none" if Verdict.FAILS in found else "decided in no cell"


def _text(square: Square) -> Marked:
    """A square as markdown."""
    verdict = f"**{square.verdict}**" if square.sure else square.verdict
    return Marked(f"{verdict} {escape(square.number)}".rstrip())


def _best(histories: pd.DataFrame, metric: str) -> str:
    """The configuration whose mean over seeds is best at the last epoch, with that mean."""
    if histories.empty:
        return "-"
    last = histories[histories["epoch"] == histories["epoch"].max()]
    means: dict[Any, float] = {name: exact_mean(cells) for name, cells in last.groupby("configuration")[metric]}
    known = {str(name): value for name, value in means.items() if not np.isnan(value)}
    if not known:
        return "-"
    name = (min if metric in history.LOSSES else max)(known, key=known.__getitem__)
    return f"{number(known[name], '.3f')} ({name})"
