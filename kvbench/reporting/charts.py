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
GREY = "#777777"  # reads on white and on black
FAINT = 1.0  # width of the reference's lines
LOWER = 0.3  # of a row, as far below a value stands the reference's
LABEL_GAP = 0.075  # between two labels, as a share of a panel's height


def ink(output: Path) -> str:
    """The colour of text and axes: an SVG is for pages, light and dark ones; the others are printed."""
    return GREY if output.suffix == ".svg" else "black"


def styled(output: Path) -> dict[str, Any]:
    """Settings of matplotlib for a picture in that file."""
    of_text = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(of_text, ink(output)),
        "font.size": 9.5,
        "axes.titlesize": "medium",
        "svg.hashsalt": "kvbench",  # the same curves give the same bytes
        "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's usual Type 3
    }


def save(picture: Any, output: Path) -> None:
    """Write a picture: an SVG on a transparent ground, the others on white."""
    with atomic_write(output) as tmp:
        picture.savefig(tmp, transparent=output.suffix == ".svg", dpi=160, metadata=METADATA[output.suffix])


def curves_chart(histories: pd.DataFrame, design: Design, output: Path, workload: str) -> None:
    """Draw training loss (log scale) and validation accuracy against epochs, a column of panels for each recipe.

    A line is a configuration's mean over seeds; its band reaches from the lowest to the highest seed. An SVG has grey
    text on a transparent ground, for light and dark pages; PDF and PNG have black text on white. Equal histories give
    equal bytes with the same version of matplotlib.

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
    with rc_context(styled(output)):
        picture = Picture(figsize=(1 + 4.2 * columns, 2.8 * max(1.4, len(figures))), layout="constrained")
        shared = isinstance(figures[0].panels[0], Lines)
        grid = picture.subplots(len(figures), columns, sharex=shared, sharey="row" if shared else False, squeeze=False)
        named = []
        for row, figure in zip(grid, figures, strict=True):
            for axes, panel in zip(row, figure.panels, strict=True):
                axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
                if isinstance(panel, Lines):
                    named.append((axes, _lines(axes, panel, first=axes is row[0])))
                else:
                    _dots(axes, panel)
        for axes, lines in named:  # once all curves have set the limits that panels share
            _label(axes, lines)
        for axes, panel in zip(grid[0], figures[0].panels, strict=True):
            axes.set_title(shown(panel.title), loc="left", color=ink(output), parse_math=False)
        for axes, panel in zip(grid[-1], figures[-1].panels, strict=True):
            axes.set_xlabel(panel.x.label)
        picture.suptitle(shown(title), parse_math=False)
        save(picture, output)


def _lines(axes: Any, panel: Lines, *, first: bool) -> list[Any]:
    """Draw the curves, the reference's behind them; gives the artists of those to name."""
    if first:
        axes.set_ylabel(panel.y.label)
    for name, axis in (("x", panel.x), ("y", panel.y)):
        if axis.log:
            axes.set(**{f"{name}scale": "log"})
            getattr(axes, f"{name}axis").set_major_formatter("{x:g}")
    if not panel.x.log:
        axes.margins(x=0)  # the first epoch is at the edge
    for line in panel.behind:
        kept = _visible(line, panel)
        axes.plot(line.x[kept], line.y[kept], color=GREY, linestyle=":", linewidth=FAINT)
    lines = [_line(axes, line, panel) for line in panel.lines]
    if panel.x.falling and not axes.xaxis_inverted():
        axes.invert_xaxis()
    return lines


def _visible(line: Line, panel: Lines) -> Any:
    """Where every seed has a number that the axis can show."""
    return (line.low > 0) | (not panel.y.log)


def _line(axes: Any, line: Line, panel: Lines) -> Any:
    """Draw one configuration's line and band; a dot ends what is drawn against another metric, as on the page."""
    kept = _visible(line, panel)
    colour, dashes = style(line.style)
    axes.fill_between(line.x[kept], line.low[kept], line.high[kept], color=colour, alpha=0.15, linewidth=0)
    dotted = {"marker": "o", "markevery": [-1], "markersize": 4} if panel.x.log and kept.any() else {}
    dotted = {"marker": "o"} if len(line.x) == 1 else dotted
    (drawn,) = axes.plot(line.x[kept], line.y[kept], color=colour, linestyle=(0, dashes) if dashes else "-",
                         linewidth=1.6, label=shown(line.label), **dotted)  # fmt: skip
    return drawn


def _dots(axes: Any, panel: Dots) -> None:
    """Draw a row for each value, the first on top; the reference's are hollow, and a little lower."""
    behind = {dot.name: dot for dot in panel.behind}
    axes.set_yticks(range(len(panel.dots)), [shown(dot.label) for dot in panel.dots], parse_math=False)
    for row, dot in enumerate(panel.dots):
        axes.plot([dot.low, dot.high], [row, row], color=style(dot.style)[0], linewidth=2)
        axes.plot([dot.value], [row], color=style(dot.style)[0], marker="o")
        if recorded := behind.get(dot.name):
            low = row + LOWER
            axes.plot([recorded.low, recorded.high], [low, low], color=GREY, linewidth=FAINT)
            axes.plot([recorded.value], [low], color=GREY, marker="o", markersize=4, fillstyle="none")
    axes.set_xlim(left=0)
    axes.invert_yaxis()


def _label(axes: Any, drawn: Sequence[Any]) -> None:
    """Name every line at its end, labels moved apart where lines end close together."""
    to_panel = axes.transScale + axes.transLimits  # from data to shares of the panel
    lines = [(*to_panel.transform(line.get_xydata())[-1], line) for line in drawn if len(line.get_xydata())]
    lines.sort(key=lambda end: end[1])
    gaps = LABEL_GAP * np.arange(len(lines))
    # The nearest heights that keep the gap: an isotonic regression of the heights less the gaps.
    heights = isotonic_regression(np.array([y for _, y, _ in lines]) - gaps).x + gaps if lines else gaps
    for (x, y, line), height in zip(lines, heights, strict=True):
        colour = line.get_color()
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2}
        axes.annotate(line.get_label(), (x, y), (1.1, height), "axes fraction", color=colour, va="center",
                      fontsize="small", arrowprops=leader, parse_math=False)  # fmt: skip
