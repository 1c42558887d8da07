"""Maps of findings over a grid as a picture: a panel for each finding and recipe, a coloured square for each cell."""

from __future__ import annotations

import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kvbench.findings.clauses import Verdict
from kvbench.reporting.charts import GREY, METADATA, ink, save, styled
from kvbench.reporting.maps import NO_RESULT, Square, Sweep
from kvbench.utils.errors import UserError
from kvbench.utils.text import shown

# Colours that colour-blind readers tell apart (Okabe and Ito's), with the text on them, and a letter for each.
LOOKS = {
    Verdict.HOLDS.value: ("#0072B2", "#FFFFFF", "H"),
    Verdict.FAILS.value: ("#D55E00", "#FFFFFF", "F"),
    Verdict.MIXED.value: ("#CC79A7", "#000000", "M"),
    Verdict.UNDECIDED.value: ("#D9D9D9", "#000000", "?"),
    NO_RESULT: ("none", GREY, "-"),
}
SQUARE = (0.78, 0.5)  # inches
KEY = "H holds, F fails, M mixed, ? undecided, - no result; framed: stands where all cells share one error rate"
MOST = 40_000  # squares in a picture


def heat_maps_chart(sweep: Sweep, output: Path) -> None:
    """Draw a panel for each finding and recipe, and for each value of axes beyond the second.

    A square is a cell: its colour and letter are the verdict (H holds, F fails, M mixed, ? undecided), below the letter
    is the margin, or how many clauses hold. A frame marks verdicts that stand where all cells share one error rate. An
    SVG is transparent, with grey text; PDF and PNG are black on white. The same sweep gives the same bytes with the
    same version of matplotlib.

    Args:
        sweep: what was judged.
        output: the file to write: .svg, .png or .pdf.

    Raises:
        UserError: the file has another suffix or cannot be written, or matplotlib is not installed.
    """
    need_chart(output)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(sweep.axes)
    facets = list(sweep.facets)
    rows = [(f, [(scope, facet) for scope in sweep.scopes(f) for facet in facets]) for f in sweep.findings]
    wide = max(len(panels) for _, panels in rows)
    down = sweep.axes[names[0]] if len(names) > 1 else ("",)
    across = sweep.axes[names[1]] if len(names) > 1 else sweep.axes[names[0]]
    if (squares := sum(len(panels) for _, panels in rows) * len(down) * len(across)) > MOST:
        raise UserError(f"The picture would have {squares:,} squares; at most {MOST:,} are drawn: choose a --finding.")
    width = max(wide * (len(across) * SQUARE[0] + 0.75), 5.0)
    with rc_context(styled(output)):
        figure = Figure(figsize=(width, 0.75 + len(rows) * (len(down) * SQUARE[1] + 1.15)), layout="constrained")
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (finding, panels) in zip(parts, rows, strict=True):
            sentence = textwrap.shorten(f"{finding.id}: {finding.sentence}", int(width * 13), placeholder=" ...")
            part.suptitle(shown(sentence), x=0.01, ha="left", fontsize="medium", fontweight="bold", parse_math=False)
            axes_of_row = part.subplots(1, wide, squeeze=False)[0]
            for axes, (scope, facet) in zip(axes_of_row, panels, strict=False):
                caption = [sweep.short(finding, scope)]
                caption += [f"{name}={value}" for name, value in zip(names[2:], facet, strict=True)]
                axes.set_title(shown(", ".join(caption)), loc="left", color=ink(output), parse_math=False,
                               fontsize="small")  # fmt: skip
                squares_of = sweep.squares(finding, scope)
                for y, first in enumerate(down):
                    for x, second in enumerate(across):
                        place = (first, second, *facet) if len(names) > 1 else (second,)
                        _draw(axes, x, y, squares_of[place])
                _label(axes, names, down, across)
            for axes in axes_of_row[len(panels) :]:
                axes.set_axis_off()
        seeds = f"{len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed, by its sign"
        title = f"{sweep.grid.study.name} on {sweep.grid.workload.name}, {seeds}"
        key = "\n".join(textwrap.wrap(KEY, int(width * 14)))
        figure.suptitle(f"{shown(title)}\n{key}", x=0.01, ha="left", fontsize="small", parse_math=False)
        save(figure, output)


def need_chart(output: Path) -> None:
    """Raise `UserError` where a chart cannot be written to ``output``: before training, not after it."""
    if output.suffix not in METADATA:
        raise UserError(f"Cannot draw {output}: its suffix must be one of {', '.join(METADATA)}.")
    if find_spec("matplotlib") is None:
        raise UserError("Drawing needs matplotlib: pip install 'kvbench[plot]'.")


def _draw(axes: Any, x: int, y: int, square: Square) -> None:
    from matplotlib.patches import Rectangle

    colour, ink, letter = LOOKS[square.verdict]
    edge = {"linewidth": 0} if square.judgement else {"edgecolor": GREY, "linewidth": 0.6, "linestyle": (0, (3, 3))}
    axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, facecolor=colour, **edge))
    if square.sure:
        axes.add_patch(Rectangle((x - 0.42, y - 0.39), 0.84, 0.78, fill=False, edgecolor=ink, linewidth=1.4))
    lift = 0.13 if square.number else 0
    axes.text(x, y - lift, letter, color=ink, ha="center", va="center", fontweight="bold")
    axes.text(x, y + 0.22, shown(square.number), color=ink, ha="center", va="center", fontsize=6.5, parse_math=False)


def _label(axes: Any, names: list[str], down: tuple[str, ...], across: tuple[str, ...]) -> None:
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(len(down) - 0.5, -0.5)
    axes.set_xticks(range(len(across)), [shown(value) for value in across], parse_math=False)
    axes.set_yticks(range(len(down)), [shown(value) for value in down], parse_math=False)
    axes.set_xlabel(names[1] if len(names) > 1 else names[0], labelpad=1)
    if len(names) > 1:
        axes.set_ylabel(names[0], labelpad=1)
    else:
        axes.set_yticks([])
    axes.tick_params(length=0, labelsize="small")
    axes.spines[:].set_visible(False)
