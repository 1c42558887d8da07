"""A report as one page of HTML that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kvbench.findings.clauses import Verdict
from kvbench.findings.design import Design
from kvbench.findings.judge import BY_SIGN, Judgement, missing
from kvbench.reference.compare import differing
from kvbench.reference.standing import Standing
from kvbench.reporting import report
from kvbench.reporting.contents import Contents
from kvbench.reporting.figures import CURVES, Figure, Lines, on_scale
from kvbench.reporting.svg import pictures, sample
from kvbench.reporting.table import BOLD, ITALIC, Starred, Table
from kvbench.results import history
from kvbench.results.saved import Outcome
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import shorten
from kvbench.utils.text import shown

if TYPE_CHECKING:
    import pandas as pd

MOST_CLAUSES = 40  # of a finding, in a page
MOST_COMPARED = 60  # configurations that are held against the reference in a page
LONGEST = 600  # characters of a cell: a clause about hundreds of students names them all
MARKS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.MIXED: "◐", Verdict.UNDECIDED: "?"}


def page(contents: Contents) -> str:
    """The report as HTML.

    Findings first, then figures, tables, what differs from the reference's surroundings, and where the numbers come
    from. Its size is bounded: figures draw some twenty configurations a recipe, findings show some forty clauses, and
    it says what it leaves out.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> page(of_expected(Path("expected"), "imagenet", STUDY.design))[:15]
        '<!DOCTYPE html>'
    """
    outcome = report.conclusion(contents.outcome) if contents.outcome else ("", [])
    return render(
        "page.html",
        report.workload_of(contents.facts),
        passed=contents.outcome is not None and contents.outcome["outcome"] in {Outcome.PASSED, Outcome.RECORDED},
        outcome=outcome[0],
        reasons=outcome[1],
        seeds=report.seed_count(contents.histories),
        configurations=len(history.configurations(contents.histories)),
        findings=findings((one.judgement.recipe, one) for one in contents.stood),
        not_judged=_not_judged(contents),
        students=[(student, sample(index)) for student, index in contents.numbers.styles.items()],
        groups=contents.numbers.groups,
        left_out=contents.numbers.left_out,
        figures=[drawn(figure) for figure in contents.figures],
        tables=contents.tables,
        caption=caption(contents.histories, contents.design),
        reference=contents.reference is not None,
        lacking=contents.lacking,
        surroundings=_surroundings(contents),
        compared=_compared(contents),
        clauses=[(report.title(j), report.remarks(j), _cut(report.clause_table(j)), _more(j))
                 for j in contents.judgements if j.clauses or j.notes],
        about=report.words(contents.histories, contents.design, contents.facts),
        about_reference=report.words(contents.reference.histories, contents.design, contents.reference.provenance)
        if contents.reference else {},
    )  # fmt: skip


def caption(histories: pd.DataFrame, design: Design) -> str:
    """What the numbers of the page's tables are."""
    several = histories.groupby("configuration")["seed"].nunique().max() > 1
    ends = " In brackets: the lowest and the highest seed." if several else ""
    return f"{report.caption(histories, design, 'Bold', 'italic')}{ends} {report.NO_NUMBER}"


def render(name: str, title: str, **values: Any) -> str:
    """A page from one of our templates, with our style and script and no others."""
    environment = Environment(
        loader=PackageLoader("kvbench.reporting"), autoescape=True, finalize=_safe, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["starred"] = _starred
    assert environment.loader is not None, "it was given one"
    css, js = (environment.loader.get_source(environment, f"page.{kind}")[0] for kind in ("css", "js"))
    return environment.get_template(name).render(
        title=title,
        css=Markup(css),  # noqa: S704 - our own files
        js=Markup(js),  # noqa: S704
        css_hash=_digest(css),
        js_hash=_digest(js),
        **values,
    )


def _safe(value: object) -> object:
    """What a template puts into the page: nothing unseen in it; jinja escapes the rest."""
    return value if isinstance(value, Markup) else shown(value)


def _starred(cell: str | Starred) -> Markup:
    """A cell in bold or italic where it stands out, with its seeds' range below it."""
    text, stars = escape(shown(cell)), cell.stars if isinstance(cell, Starred) else 0
    text = Markup("<i>{}</i>").format(text) if stars & ITALIC else text
    text = Markup("<b>{}</b>").format(text) if stars & BOLD else text
    ends = cell.ends if isinstance(cell, Starred) else ""
    return Markup("{} <small>({})</small>").format(text, ends) if ends else text


def _digest(text: str) -> str:
    """Of a style or script, so that the page allows itself this one alone."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def findings(rows: Iterable[tuple[str, Standing]]) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Of each finding its sentence, its id, and what came out, a mapping for each of the ``rows``: where, and what."""
    found: dict[str, tuple[str, str, list[dict[str, str]]]] = {}
    for where, one in rows:
        judgement, clause = one.judgement, one.clause
        row = found.setdefault(judgement.finding.id, (judgement.finding.sentence, judgement.finding.id, []))
        row[2].append({
            "where": where,
            "verdict": one.verdict.value,
            "mark": MARKS[one.verdict],
            "words": one.words,
            "how": "" if judgement.tested else BY_SIGN,
            "held": judgement.summary.partition(": ")[2],
            "clause": _short(f"{clause.sentence}: {clause.numbers}") if clause else "",
            "margin": _short(clause.describe_margin()) if clause else "",
            "alone": one.alone if one.verdict != judgement.verdict else "",
            "recorded": one.before if one.recorded else "",
            "moved": "yes" if one.status is not None and one.status.failed else "",
        })  # fmt: skip
    return list(found.values())


def _not_judged(contents: Contents) -> list[str]:
    """Of each finding that could not be judged on some recipe, what is missing for it."""
    judged = {(judgement.finding.id, judgement.recipe) for judgement in contents.judgements}
    said = []
    for row in contents.design.findings.values():
        if any((row.id, scope) not in judged for scope in contents.design.scopes(row)):
            lacking = missing(row, contents.histories, contents.design).items()
            said += [f"{row.sentence} ({recipe}): lacks {shorten(names)}" for recipe, names in lacking]
    return said


def drawn(figure: Figure, id_: str = "") -> dict[str, Any]:
    """A figure for the template: its panels, and the same on the other scale; ``id_``, where its own is not unique."""
    id_ = id_ or figure.id
    panels = [(panel.title, picture) for panel, picture in zip(figure.panels, pictures(figure, id_), strict=True)]
    log = None
    other: list[tuple[str, Markup]] = []
    if figure.id in CURVES:
        curves = [panel for panel in figure.panels if isinstance(panel, Lines)]
        log = curves[0].y.log
        turned = Figure(figure.id, figure.title, figure.caption, [on_scale(panel, log=not log) for panel in curves])
        names = [panel.title for panel in curves]
        other = list(zip(names, pictures(turned, f"{id_}-other"), strict=True))
    return {"id": figure.id, "title": figure.title, "caption": figure.caption, "notes": figure.notes,
            "panels": panels, "other": other, "log": log,
            "table": figure.table}  # fmt: skip


def _surroundings(contents: Contents) -> list[str]:
    """How the run was made otherwise than the reference, a phrase each."""
    if contents.reference is None:
        return []
    other = differences(contents.reference.provenance, contents.facts)
    return [*differing(contents.reference.fingerprints, contents.fingerprints), *other]


def _compared(contents: Contents) -> tuple[list[str], Table, str]:
    """The run against the reference: a sentence for each configuration that left it, all tolerances, what is left."""
    names = history.configurations(contents.histories)
    found = contents.compared(names[:MOST_COMPARED])
    said = [_short(one.describe().partition("\n")[0] + "".join(f"; {text}" for text in one.problems))
            for one in found if one.failed]  # fmt: skip
    within = sum(one.judged and not one.failed for one in found)
    more = f" The first {MOST_COMPARED} were compared." if len(names) > MOST_COMPARED else ""
    head = f"{within} of {len(found)} configurations are within the reference.{more}"
    return said, report.tolerance_table(found), head


def _cut(table: Table) -> Table:
    return Table(table.headers, [[_short(str(cell)) for cell in row] for row in table.rows[:MOST_CLAUSES]])


def _more(judgement: Judgement) -> str:
    left = len(judgement.clauses) - MOST_CLAUSES
    return f"{left} more clauses are in the report in markdown." if left > 0 else ""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
