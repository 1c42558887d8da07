"""A sweep as one page of HTML: the map of each finding over the grid, in colours and in words."""

from __future__ import annotations

from kvbench.reporting.html import render
from kvbench.reporting.maps import Sweep
from kvbench.utils.errors import UserError

MOST = 8000  # squares of a page, of some 110 bytes each


def map_page(sweep: Sweep) -> str:
    """The page: each finding in short, its maps, the cells, and how to read it; text and numbers are the markdown's.

    Raises:
        UserError: there are more squares than anyone would look at.
    """
    squares = len(sweep.cells) * sum(len(sweep.scopes(finding)) for finding in sweep.findings)
    if squares > MOST:
        raise UserError(f"The page would have {squares:,} squares; at most {MOST:,} are shown: choose a --finding.")
    return render(
        "sweep.html",
        f"sweep of {sweep.title}",
        about=sweep.about,
        overview=sweep.overview,
        findings=[(finding, sweep.judged_as(finding), list(sweep.maps(finding))) for finding in sweep.findings],
        cells=sweep.table,
        problems=sweep.problems,
        legend=[text.replace("**", "") for text in sweep.legend],
    )
