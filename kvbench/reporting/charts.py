"""Figures as files for papers: SVG, PDF and PNG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from kvbench.findings.design import Design
from kvbench.reporting.figures import CURVES_CHART, Dots, Figure, Line, Lines, Numbers, curves, style
from kvbench.utils.errors import UserError
from kvbench.utils.files import atomic_write
from kvbench.utils.text import shown

if TYPE_CHECKING:
    import pandas as pd

METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}  # no dates
GREY = "#777777"  # of text and axes: reads on white and on black, so that one file serves light and dark pages
STYLE = {
    "font.size": 9.5,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlesize": "medium",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "kvbench",  # the same curves give the same bytes
}
LABEL_GAP = 0.075  # between two labels, as a share of a panel's height


def curves_chart(histories: pd.DataFrame, design: Design, output: Path, workload: str) -> None:
    """Draw training loss (log scale) and validation accuracy against epochs, a column of panels for each recipe.

    A line is a configuration's mean over seeds; its band reaches from the lowest to the highest seed. The background is
    transparent. Equal histories give equal bytes with the same version of matplotlib.

    Args:
        histories: a history frame; losses in nat, accuracies from 0 to 1.
        design: the study's: its recipes are the columns; what it does not know has one of its own.
        output: the file to write: .svg, .png or .pdf.
        workload: its name, for the title.

    Raises:
        UserError: the file has another suffix or cannot be written, or matplotlib is not installed.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> reference = load_reference(Path("expected"), "fractals", STUDY.design)
        >>> curves_chart(reference.histories, STUDY.design, Path("curves.svg"), "fractals")  # doctest: +SKIP
    """
    numbers = Numbers(histories, design, {})
    draw([curves(numbers, metric) for metric in CURVES_CHART], output, f"{workload}: {numbers.seeds}")


def draw(figures: Sequence[Figure], output: Path, title: str) -> None:
    """Draw figures below each other, a column of panels for each recipe; arguments and errors as in `curves_chart`."""
    if output.suffix not in METADATA:
        raise UserError(f"Cannot draw {output}: its suffix must be one of {', '.join(METADATA)}.")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Picture
    except ImportError:
        raise UserError("Drawing needs matplotlib: pip install 'kvbench[plot]'.") from None
    columns = len(figures[0].panels)
    with rc_context(STYLE):
        picture = Picture(figsize=(1 + 4.2 * columns, 2.8 * max(1.4, len(figures))), layout="constrained")
        shared = isinstance(figures[0].panels[0], Lines)
        grid = picture.subplots(len(figures), columns, sharex=shared, sharey="row" if shared else False, squeeze=False)
        for row, figure in zip(grid, figures, strict=True):
            for axes, panel in zip(row, figure.panels, strict=True):
                axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
                if isinstance(panel, Lines):
                    _lines(axes, panel, first=axes is row[0])
                else:
                    _dots(axes, panel)
        for axes in grid.flat if shared else ():  # once all curves have set the limits that panels share
            _label(axes)
        for axes, panel in zip(grid[0], figures[0].panels, strict=True):
            axes.set_title(shown(panel.title), loc="left", color=GREY, parse_math=False)
        for axes, panel in zip(grid[-1], figures[-1].panels, strict=True):
            axes.set_xlabel(panel.x.label)
        picture.suptitle(shown(title), parse_math=False)
        with atomic_write(output) as tmp:
            picture.savefig(tmp, transparent=True, dpi=160, metadata=METADATA[output.suffix])


def _lines(axes: Any, panel: Lines, *, first: bool) -> None:
    if first:
        axes.set_ylabel(panel.y.label)
    for name, axis in (("x", panel.x), ("y", panel.y)):
        if axis.log:
            axes.set(**{f"{name}scale": "log"})
            getattr(axes, f"{name}axis").set_major_formatter("{x:g}")
    axes.margins(x=0)
    for line in panel.lines:
        _line(axes, line, log=panel.y.log)
    if panel.x.falling and not axes.xaxis_inverted():
        axes.invert_xaxis()


def _line(axes: Any, line: Line, *, log: bool) -> None:
    """Draw one configuration's line and band, as far as every seed has a number that the axis can show."""
    kept = (line.low > 0) | (not log)
    colour, dashes = style(line.style)
    axes.fill_between(line.x[kept], line.low[kept], line.high[kept], color=colour, alpha=0.15, linewidth=0)
    axes.plot(line.x[kept], line.y[kept], color=colour, linestyle=(0, dashes) if dashes else "-", linewidth=1.6,
              label=shown(line.label), marker="o" if len(line.x) == 1 else None)  # fmt: skip


def _dots(axes: Any, panel: Dots) -> None:
    """Draw a row for each value, the first on top."""
    axes.set_yticks(range(len(panel.dots)), [shown(dot.label) for dot in panel.dots], parse_math=False)
    for row, dot in enumerate(panel.dots):
        axes.plot([dot.low, dot.high], [row, row], color=style(dot.style)[0], linewidth=2)
        axes.plot([dot.value], [row], color=style(dot.style)[0], marker="o")
    axes.set_xlim(left=0)
    axes.invert_yaxis()


def _label(axes: Any) -> None:
    """Name every line at its end, labels moved apart where lines end close together."""
    to_panel = axes.transScale + axes.transLimits  # from data to shares of the panel
    lines = [(*to_panel.transform(line.get_xydata())[-1], line) for line in axes.lines if len(line.get_xydata())]
    lines.sort(key=lambda end: end[1])
    gaps = LABEL_GAP * np.arange(len(lines))
    # The nearest heights that keep the gap: an isotonic regression of the heights less the gaps.
    heights = isotonic_regression(np.array([y for _, y, _ in lines]) - gaps).x + gaps if lines else gaps
    for (x, y, line), height in zip(lines, heights, strict=True):
        colour = line.get_color()
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2}
        axes.annotate(line.get_label(), (x, y), (1.1, height), "axes fraction", color=colour, va="center",
                      fontsize="small", arrowprops=leader, parse_math=False)  # fmt: skip
