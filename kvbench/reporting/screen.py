"""What fits on one screen: a line for each finding and recipe, in `SCREEN` columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from kvbench.findings.design import Design
from kvbench.reference.standing import Standing
from kvbench.reference.status import Status
from kvbench.utils.text import SCREEN, cut, fold, shown

HEADERS = ("finding", "recipe", "verdict", "what decides, means over seeds")
LONGEST = (30, 18, 30)  # characters of a finding, a recipe and a verdict; the rest of the line tells what decides


class Line(NamedTuple):
    """A line of the terminal, and the worst that it tells: `Status.CHANGED`, say."""

    text: str
    status: Status | None = None

    @property
    def markup(self) -> dict[str, bool]:
        """Its colour, as pytest's terminal takes it: red what fails a run, yellow what needs more seeds."""
        failed = self.status is not None and self.status.failed
        return {"red": failed, "yellow": self.status == Status.NOT_CONFIRMED}


def verdict_lines(standings: Sequence[Standing], design: Design, most: int) -> list[Line]:
    """A line for each finding and recipe, under a line of headers; at most about ``most``, those that changed first.

    Args:
        standings: what `kvbench.reference.standing.standings` makes.
        design: the study's.
        most: of more, those that are as recorded are counted instead of shown.
    """
    left: list[Standing] = []
    if len(standings) > most:
        news = [one for one in standings if one.status not in {Status.RECORDED, None}]
        kept = {id(one) for one in [*news, *(one for one in standings if one not in news)][: max(most, len(news))]}
        left = [one for one in standings if id(one) not in kept]
        standings = [one for one in standings if id(one) in kept]
    rows = [_row(one, design) for one in standings]
    widths = [max([len(header), *(len(row[column]) for row in rows)]) for column, header in enumerate(HEADERS[:3])]
    lines, before = list[Line](), ""
    for one, row in zip([None, *standings], [HEADERS, *rows], strict=True) if rows else ():
        name, *cells = row
        cells = ["" if name == before else name, *cells]
        before = name
        text = "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]])
        text = text if len(text) <= SCREEN else f"{text[: SCREEN - 1]}…"
        lines.append(Line(text.rstrip(), one.status if one else None))
    if left:
        counts = Counter(one.words for one in left)
        more = "; ".join(f"{count} {words}" for words, count in counts.most_common())
        lines.append(Line(fold(f"and {len(left)} more, which the report has: {more}")))
    return lines


def _row(one: Standing, design: Design) -> tuple[str, str, str, str]:
    judgement = one.judgement
    recipe = "both" if judgement.finding.across and len(design.recipes) == 2 else judgement.recipe
    # There is a column for the recipe, so configurations go by their students.
    brief = one.clause.brief({name: design.find(name)[1] for name in design.names}) if one.clause else ""
    cells = (judgement.finding.id, recipe, one.words)
    finding, recipe, words = (cut(shown(cell), width) for cell, width in zip(cells, LONGEST, strict=True))
    return finding, recipe, words, shown(brief)
