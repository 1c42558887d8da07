"""Training curves as a picture: the mean over seeds of every configuration, with a band from lowest to highest seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from kvbench.findings.design import Design
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import atomic_write
from kvbench.utils.text import shown

if TYPE_CHECKING:
    import pandas as pd

METRICS = {"train_loss": "training loss (nat)", "val_accuracy": "validation accuracy"}
METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}  # no dates
# Colours that colour-blind readers tell apart (Okabe and Ito's, and a violet), on white and on black; dashes as well.
LINES = [
    ("#2F8FD8", "-"),
    ("#009E73", "-"),
    ("#D55E00", (0, (6, 1.5))),
    ("#E69F00", (0, (3, 1.2))),
    ("#CC79A7", (0, (6, 1.5, 1.5, 1.5))),
    ("#9A7FD1", (0, (1.2, 1.2))),
    ("#808080", (0, (9, 2, 1.5, 2, 1.5, 2))),
]
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
    if output.suffix not in METADATA:
        raise UserError(f"Cannot draw {output}: its suffix must be one of {', '.join(METADATA)}.")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("Drawing needs matplotlib: pip install 'kvbench[plot]'.") from None
    blocks = design.blocks(history.configurations(histories))
    lines = sorted({student for block in blocks.values() for student in block})
    styles = {student: LINES[number % len(LINES)] for number, student in enumerate(lines)}
    with rc_context(STYLE):
        figure = Figure(figsize=(1 + 4.2 * len(blocks), 5.6), layout="constrained")
        panels = figure.subplots(len(METRICS), len(blocks), sharex=True, sharey="row", squeeze=False)
        for row, metric in zip(panels, METRICS, strict=True):
            row[0].set_ylabel(METRICS[metric])
            for axes, block in zip(row, blocks.values(), strict=True):
                if metric == "train_loss":
                    axes.set_yscale("log")
                    axes.yaxis.set_major_formatter("{x:g}")
                axes.margins(x=0)
                axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
                for student, name in block.items():
                    _draw(axes, history.of(histories, name), metric, student, *styles[student])
        for axes in panels.flat:  # once all curves have set the limits that panels share
            _label(axes)
        for axes, recipe in zip(panels[0], blocks, strict=True):
            axes.set_title(shown(recipe or "others"), loc="left", color=GREY, parse_math=False)
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
        seeds = history.seeds(histories)
        bands = f"mean over {len(seeds)} seeds, band from the lowest to the highest" if len(seeds) > 1 else "one seed"
        figure.suptitle(f"{shown(workload)}: {bands}", parse_math=False)
        with atomic_write(output) as tmp:
            figure.savefig(tmp, transparent=True, dpi=160, metadata=METADATA[output.suffix])


def _draw(axes: Any, rows: pd.DataFrame, metric: str, student: str, colour: str, dashes: Any) -> None:
    """Draw one configuration's line and band, as far as every seed has a number that the axis can show."""
    seeds = rows.pivot_table(index="epoch", columns="seed", values=metric, dropna=False)
    seeds = seeds[np.isfinite(seeds).all(axis=1) & ((seeds > 0).all(axis=1) | (axes.get_yscale() == "linear"))]
    axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    axes.plot(seeds.index, seeds.mean(axis=1), color=colour, linestyle=dashes, linewidth=1.6, label=shown(student))


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
