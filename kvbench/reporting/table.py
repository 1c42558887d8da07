"""A table for readers, and what it becomes in markdown, in a paper and in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from kvbench.utils.errors import unknown
from kvbench.utils.text import Marked, markdown_table, shown

ITALIC, BOLD = 1, 2  # stars, as markdown has them; both make three
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",  # others in LaTeX's oldest fonts
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Starred:
    """A number that may stand out: the best of its recipe is bold, the best of the design's focus italic.

    ``ends`` are the lowest and the highest seed of a mean, which pages show below it.
    """

    text: str
    stars: int = 0
    ends: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    r"""Texts in rows and columns, the first column naming the rows.

    Example:
        >>> print(Table(("configuration", "1"), (("a_b", Starred("0.5", BOLD)),)).latex())
        \begin{tabular}{ll}
        \toprule
        configuration & 1 \\
        \midrule
        a\_b & \textbf{0.5} \\
        \bottomrule
        \end{tabular}
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str | Starred]]

    def markdown(self) -> str:
        """A table of markdown."""
        cells = [[_starred(cell) if isinstance(cell, Starred) else cell for cell in row] for row in self.rows]
        return markdown_table(self.headers, cells)

    def terminal(self, widths: Sequence[int]) -> str:
        """A table of at most so wide columns."""
        from tabulate import tabulate  # here, as in `kvbench.utils.text.markdown_table`

        rows = [[shown(str(cell)) for cell in row] for row in self.rows]
        return tabulate(rows, self.headers, "simple", disable_numparse=True, maxcolwidths=list(widths))

    def latex(self) -> str:
        """A ``tabular`` with the rules of the package booktabs."""
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in (self.headers, *self.rows)]
        ends = [rf"\begin{{tabular}}{{{'l' * len(self.headers)}}}", r"\toprule"], [r"\bottomrule", r"\end{tabular}"]
        return "\n".join([*ends[0], lines[0], r"\midrule", *lines[1:], *ends[1]])

    def csv(self) -> str:
        """Comma-separated values, as Python's csv module and spreadsheets read them."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([map(shown, row) for row in (self.headers, *self.rows)])
        return text.getvalue().rstrip("\n")

    def formatted(self, kind: str) -> str:
        """The table as one of `FORMATS`; raises `UserError` naming them."""
        if kind not in FORMATS:
            raise unknown("format of a table", kind, FORMATS)
        return FORMATS[kind](self)


FORMATS = {"markdown": Table.markdown, "csv": Table.csv, "latex": Table.latex}


def _starred(cell: Starred) -> Marked:
    stars = "*" * cell.stars
    return Marked(f"{stars}{cell.text}{stars}")


def _latex(cell: str | Starred) -> str:
    text = "".join(LATEX.get(char, char) for char in shown(cell))
    stars = cell.stars if isinstance(cell, Starred) else 0
    text = rf"\textit{{{text}}}" if stars & ITALIC else text
    return rf"\textbf{{{text}}}" if stars & BOLD else text
