"""Several references as one page of HTML: a map of their verdicts, their curves beside each other, their tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from markupsafe import Markup

from kvbench.findings.clauses import format_margin
from kvbench.findings.judge import Judgement
from kvbench.reference.standing import Standing
from kvbench.reporting import report
from kvbench.reporting.figures import CURVES, LOSS_ACCURACY, TIME, Figure, Numbers, figures, time_table
from kvbench.reporting.html import caption, drawn, findings, render
from kvbench.reporting.maps import NO_RESULT
from kvbench.reporting.side_by_side import SideBySide, cell
from kvbench.reporting.svg import sample
from kvbench.reporting.table import Table

SHOWN = (*CURVES, "time-epochs", LOSS_ACCURACY)  # seconds of unlike machines are not compared


class Square(NamedTuple):
    """A place of the map: a verdict, the same with how many clauses hold, and the margin of the clause that decides."""

    verdict: str
    text: str
    margin: str = ""


def references_page(together: SideBySide) -> str:
    """The page; its verdicts and tables are the markdown's.

    A figure has a panel for each reference and recipe, on axes of the reference's own, and a student has one style in
    all of them. Its size is bounded for each reference, as that of a report's page is.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> references_page(side_by_side(Path("expected"), ["imagenet", "fractals"], STUDY.design))[:15]
        '<!DOCTYPE html>'
    """
    workloads = [reference.workload for reference in together.references]
    alone = [Numbers(one.histories, together.design, one.costs) for one in together.references]
    styles = {student: index for index, student in enumerate(dict.fromkeys(s for one in alone for s in one.styles))}
    numbers = [Numbers(one.histories, one.design, one.costs, students=tuple(styles)) for one in alone]
    made = [{figure.id: figure for figure in figures(one)} for one in numbers]
    judged = [(f"{recipe}, {name}", Standing(judgement, compared=False)) for _, recipe, row in together.judgements
              for name, judgement in zip(workloads, row, strict=True) if judgement]  # fmt: skip
    return render(
        "references.html",
        together.title,
        reading=together.reading.replace("*both*", "“both”"),
        workloads=workloads,
        seeds=[report.seed_count(one.histories) for one in together.references],
        map=[(finding, [(recipe, list(map(_square, row))) for _, recipe, row in rows])
             for finding, rows in groupby(together.judgements, key=itemgetter(0))],
        findings=findings(judged),
        students=[(student, sample(index)) for student, index in styles.items()],
        groups=numbers[0].groups,
        left_out=[f"{name}: {note}" for name, one in zip(workloads, numbers, strict=True) for note in one.left_out],
        figures=[_figure(workloads, [one.get(id_) for one in made])
                 for id_ in SHOWN if any(id_ in one for one in made)],
        tables=[(name, caption(one.histories, together.design), dict(_tables(one, those)))
                for name, one, those in zip(workloads, numbers, made, strict=True)],
        provenance=[(one.workload, report.words(one.histories, together.design,
                                                {**one.provenance, "workload": one.workload}))
                    for one in together.references],
    )  # fmt: skip


def _square(judgement: Judgement | None) -> Square:
    if judgement is None:
        return Square(NO_RESULT, cell(None))
    clause, text = judgement.deciding, cell(judgement)
    if clause is None or math.isnan(clause.margin):
        return Square(judgement.verdict, text)
    margin, *ends = (format_margin(value, clause.scale) for value in (clause.margin, clause.low, clause.high))
    interval = f" ({' to '.join(ends)})" if math.isfinite(clause.low) else ""
    return Square(judgement.verdict, text, f"{margin}{interval}{'' if judgement.tested else ' by sign'}")


def _figure(workloads: list[str], those: list[Figure | None]) -> dict[str, Any]:
    """A figure with a panel for each recipe and reference; None: a reference has no numbers for it."""
    rows: dict[str, dict[str, list[tuple[str, Markup]]]] = {"panels": {}, "other": {}}
    notes, parts = [], []
    for place, (workload, figure) in enumerate(zip(workloads, those, strict=True), 1):
        if figure is None:
            notes.append(f"{workload} has no numbers for it.")
            continue
        parts.append(drawn(figure, f"{figure.id}-{place}"))
        notes += [f"{workload}: {note}" for note in figure.notes]
        for kind, by_recipe in rows.items():
            for recipe, picture in parts[-1][kind]:
                by_recipe.setdefault(recipe, []).append((f"{workload}, {recipe}", picture))
    first = parts[0]
    caption = first["caption"]
    if first["id"] in CURVES:
        caption = f"{first['title']} after each epoch, mean over seeds, band from the lowest to the highest."
    panels = {kind: [panel for row in by_recipe.values() for panel in row] for kind, by_recipe in rows.items()}
    return {**first, "caption": f"{caption} Each workload has axes of its own.", "notes": notes, **panels,
            "across": min(len(parts), 3) if len(parts) != 4 else 2}  # fmt: skip


def _tables(numbers: Numbers, made: dict[str, Figure]) -> Iterator[tuple[str, tuple[str, Table]]]:
    for metric in CURVES:
        if numbers.histories[metric].notna().any():
            yield metric, (report.TITLES[metric], report.metric_table(numbers.histories, numbers.design, metric))
    if (times := time_table(one for name, one in made.items() if name in SHOWN)).rows:
        yield TIME, ("Time to target, mean over seeds (lowest to highest)", times)
