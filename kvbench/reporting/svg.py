"""Panels as SVG for pages: attributes alone, so that they are readable where styles and scripts are stripped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from scipy.optimize import isotonic_regression

from kvbench.reporting.figures import Axis, Dots, Figure, Line, Lines, Panel, style
from kvbench.stats.intervals import Floats
from kvbench.utils.text import number, shown

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420.0, 280.0, 62.0, 92.0, 8.0, 40.0
NAMES, ROW = 104.0, 22.0  # of dots: room for names, height of a row
LABEL_GAP = 13.0  # between two labels
LONGEST = 15  # letters of a label
TALLEST = 10  # how often the usual largest value a linear axis shows: what diverges leaves the panel
STROKE = 1.8
LARGEST = 1e250  # number on an axis


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """An element; what is inside and in attributes is escaped unless it is `Markup`. ``_`` in names stands for ``-``.

    Example:
        >>> tag("text", "a < b", font_size=12)
        Markup('<text font-size="12">a &lt; b</text>')
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value) if isinstance(value, float)
                                  else value if isinstance(value, Markup) else shown(value))
        for key, value in attributes.items()
    )  # fmt: skip
    content = Markup("").join(part if isinstance(part, Markup) else shown(part) for part in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, content)  # noqa: S704 - names of elements are ours


@dataclass(frozen=True)
class Scale:
    """Where values of an axis lie, from ``start`` to ``end`` in the units of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Iterable[float], start: float, end: float, axis: Axis, *, zero: bool = False) -> Scale:
        """One that shows all finite values, or from 0 on, with a little room."""
        cells = np.array([v for v in values if math.isfinite(v) and (v > 0 or not axis.log)])
        cells = np.clip(cells, 1 / LARGEST if axis.log else -LARGEST, LARGEST) if len(cells) else np.ones(1)
        low, high = 0.0 if zero else float(cells.min()), float(cells.max())
        if axis.log:
            room = max((math.log(high) - math.log(low)) * 0.04, 0.01)
            return cls(low * math.exp(-room), high * math.exp(room), start, end, log=True)
        room = max((high - low) * 0.04, abs(high) * 1e-6, 1e-12)
        return cls(low if zero else low - room, high + room, start, end, log=False)

    def __call__(self, value: float) -> float:
        """The place of a value; far outside for one far outside, and finite."""
        one, low, high = (math.log(max(v, 1e-300)) if self.log else v for v in (value, self.low, self.high))
        share = (one - low) / (high - low)
        return self.start + min(max(share, -2), 3) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to ten round values on it."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            step = max(1, len(decades) // 6)
            for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
                found = [d * 10.0**k for k in decades[::step] for d in digits]
                found = [tick for tick in found if self.low <= tick <= self.high]
                if len(found) > 2:
                    return found
        size = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step = next(size * f for f in (1, 2, 5, 10) if (self.high - self.low) / (size * f) <= 6)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(float(place * step), 12) for place in range(first, last + 1)]

    @property
    def epochs(self) -> list[float]:
        """Round values, the first epoch among them."""
        return sorted({1.0, *(tick for tick in self.ticks() if tick.is_integer() and tick >= 1)})


def pictures(figure: Figure, id_: str) -> list[Markup]:
    """Every panel of a figure as an SVG element, on common axes; ``id_`` makes their ids unique in a page."""
    return [_lines(panel, figure, f"{id_}-{index}") if isinstance(panel, Lines)
            else _dots(panel, figure, f"{id_}-{index}")
            for index, panel in enumerate(figure.panels)]  # fmt: skip


def sample(index: int) -> Markup:
    """A piece of line in a student's style, for a legend."""
    line = tag("line", x1=1, x2=35, y1=6, y2=6, **_stroke(index))
    return tag("svg", line, width=36, height=12, viewBox="0 0 36 12", aria_hidden="true")


def _lines(panel: Lines, figure: Figure, id_: str) -> Markup:
    every = [line for other in figure.panels if isinstance(other, Lines) for line in (*other.lines, *other.behind)]
    sides = (WIDTH - RIGHT, LEFT) if panel.x.falling else (LEFT, WIDTH - RIGHT)
    x = Scale.of((v for line in every for v in line.x), *sides, panel.x)
    y = Scale.of(_usual(every, log=panel.y.log), HEIGHT - BOTTOM, TOP, panel.y)
    inside = [_line(line, x, y, panel, behind=True) for line in panel.behind]
    inside += [_line(line, x, y, panel, behind=False) for line in panel.lines]
    # An inner picture cuts off what leaves the panel.
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    view = f"{_number(LEFT)} {_number(TOP)} {_number(width)} {_number(height)}"
    plot = tag("svg", *inside, x=LEFT, y=TOP, width=width, height=height, viewBox=view)
    return _picture(panel, figure, id_, HEIGHT, [*_axes(panel.x, x, panel.y, y), plot, *_labels(panel.lines, x, y)])


def _usual(lines: Sequence[Line], *, log: bool) -> list[float]:
    """The values that an axis is to show."""
    values = [float(v) for line in lines for end in (line.low, line.high) for v in end]
    if log or not values:
        return values
    most = TALLEST * float(np.median([float(line.high.max()) for line in lines]))
    return [v for v in values if v <= most] or values


def _line(line: Line, x: Scale, y: Scale, panel: Lines, *, behind: bool) -> Markup:
    visible = (line.low > 0) | (not panel.y.log)
    xs, mean, low, high = (side[visible] for side in (line.x, line.y, line.low, line.high))
    if not len(xs):
        return Markup("")
    colour = "currentColor" if behind else style(line.style)[0]
    faint = {"stroke": colour, "stroke_opacity": 0.6, "stroke_width": 1.0, "stroke_dasharray": "1 3"}
    stroke = faint if behind else _stroke(line.style)
    parts = []
    if not behind and (high > low).any() and len(xs) > 1:  # bands behind bands could not be told apart
        edge = _points(np.concatenate([xs, xs[::-1]]), np.concatenate([high, low[::-1]]), x, y)
        parts.append(tag("polygon", points=edge, fill=colour, fill_opacity=0.1))
    parts.append(tag("polyline", points=_points(xs, mean, x, y), fill="none", **stroke))
    if len(xs) == 1:
        ends = {"y1": y(float(low[0])), "y2": y(float(high[0]))}
        parts.append(tag("line", x1=x(float(xs[0])), x2=x(float(xs[0])), **ends, **stroke))
    if not behind and (len(xs) == 1 or panel.x.log):
        parts.append(tag("circle", cx=x(float(xs[-1])), cy=y(float(mean[-1])), r=3.5, fill=colour))
    values = {} if behind else {f"data_{name}": _values(side) for name, side in (("x", xs), ("y", mean))}
    if not behind and (high > low).any():
        values |= {"data_low": _values(low), "data_high": _values(high)}
    return tag("g", *parts, data_c=line.label, **values)


def _labels(lines: Sequence[Line], x: Scale, y: Scale) -> list[Markup]:
    """Name every line at its end, labels moved apart where lines end close together."""
    ends = [(x(float(line.x[-1])), y(float(line.y[-1])), line) for line in lines
            if line.low[-1] > 0 or not y.log]  # fmt: skip
    ends.sort(key=lambda end: end[1])
    if len(ends) * LABEL_GAP > HEIGHT - BOTTOM:
        return []  # the legend names them
    gaps = LABEL_GAP * np.arange(len(ends))
    # The nearest heights that keep the gap: an isotonic regression of the heights less the gaps.
    heights = isotonic_regression(np.array([end[1] for end in ends]) - gaps).x + gaps if ends else gaps
    lowest = HEIGHT - BOTTOM - LABEL_GAP * np.arange(len(ends))[::-1]
    heights = np.maximum(np.minimum(heights, lowest), TOP + 4 + gaps)
    named = []
    edge = WIDTH - RIGHT
    for (at, height, line), place in zip(ends, heights, strict=True):
        leader = tag("polyline", points=f"{_number(at)},{_number(height)} {_number(edge + 12)},{_number(place)}",
                     fill="none", stroke=style(line.style)[0], stroke_width=0.8)  # fmt: skip
        text = tag("text", _short(line.label), x=edge + 15, y=float(place) + 4, fill="currentColor", font_size=12)
        named.append(tag("g", leader, text, data_c=line.label))
    return named


def _dots(panel: Dots, figure: Figure, id_: str) -> Markup:
    every = [dot for other in figure.panels if isinstance(other, Dots) and other.x == panel.x
             for dot in (*other.dots, *other.behind)]  # fmt: skip
    height = TOP + ROW * len(panel.dots) + BOTTOM
    x = Scale.of((v for dot in every for v in (dot.low, dot.high)), NAMES, WIDTH - RIGHT + 24, panel.x, zero=True)
    y = Scale(0, len(panel.dots), TOP, height - BOTTOM, log=False)
    behind = {dot.name: dot for dot in panel.behind}
    parts = list(_axes(panel.x, x, None, y))
    for row, dot in enumerate(panel.dots):
        middle, colour = y(row + 0.5), style(dot.style)[0]
        told, low, high = (_tick(value, ".3g") for value in (dot.value, dot.low, dot.high))
        inside = [tag("title", f"{dot.label}: {told} ({low} to {high})")]
        if recorded := behind.get(dot.name):
            faint = {"stroke": "currentColor", "stroke_opacity": 0.6}
            inside += [tag("line", x1=x(recorded.low), x2=x(recorded.high), y1=middle + 5, y2=middle + 5, **faint)]
            inside += [tag("circle", cx=x(recorded.value), cy=middle + 5, r=3, fill="none", **faint)]
        inside += [
            tag("line", x1=x(dot.low), x2=x(dot.high), y1=middle, y2=middle, stroke=colour, stroke_width=2.5),
            tag("circle", cx=x(dot.value), cy=middle, r=4.5, fill=colour),
            tag("text", _short(dot.label), x=NAMES - 8, y=middle + 4, text_anchor="end", font_size=12,
                fill="currentColor"),
            tag("text", told, x=WIDTH, y=middle + 4, text_anchor="end", font_size=12, fill="currentColor"),
        ]  # fmt: skip
        parts.append(tag("g", *inside, data_c=dot.label))
    return _picture(panel, figure, id_, height, parts)


def _axes(across: Axis, x: Scale, up: Axis | None, y: Scale) -> Iterable[Markup]:
    """Grid, ticks and names; without ``up`` there are rows instead of values."""
    text = {"fill": "currentColor", "font_size": 12}
    faint = {"stroke": "currentColor", "stroke_opacity": 0.18}
    low, high = y.start, y.end
    bottom, top = max(low, high), min(low, high)
    for tick in x.epochs if across.label in {"epoch", "run"} and x.low <= 1 <= x.high else x.ticks():
        yield tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, **faint)
        yield tag("text", _tick(tick), x=x(tick), y=bottom + 16, text_anchor="middle", **text)
    yield tag("text", across.label, x=(x.start + x.end) / 2, y=bottom + 34, text_anchor="middle", **text)
    if up is None:
        return
    for tick in y.ticks():
        yield tag("line", x1=min(x.start, x.end), x2=max(x.start, x.end), y1=y(tick), y2=y(tick), **faint)
        yield tag("text", _tick(tick), x=min(x.start, x.end) - 6, y=y(tick) + 4, text_anchor="end", **text)
    middle = _number((top + bottom) / 2)
    yield tag("text", up.label, x=0, y=0, transform=f"translate(11 {middle}) rotate(-90)", text_anchor="middle", **text)


def _picture(panel: Panel, figure: Figure, id_: str, height: float, parts: Sequence[Markup]) -> Markup:
    axes = (panel.y, panel.x) if isinstance(panel, Lines) else (panel.x,)
    labels = " against ".join(axis.label + (", logarithmic" if axis.log else "") for axis in axes)
    head = tag("title", f"{figure.title}, {panel.title}: {labels}", id=f"{id_}-title")
    desc = tag("desc", describe(panel), id=f"{id_}-desc")
    size = f"0 0 {_number(WIDTH)} {_number(height)}"
    return tag("svg", head, desc, *parts, xmlns="http://www.w3.org/2000/svg", viewBox=size, role="img",
               width=WIDTH, height=height, font_family="system-ui, sans-serif",
               aria_labelledby=f"{id_}-title {id_}-desc", data_x=panel.x.label)  # fmt: skip


def describe(panel: Panel) -> str:
    """A panel in words: how each line ends, or each value."""
    if isinstance(panel, Lines):
        ends = [f"{line.label} {number(float(line.y[-1]))} at {float(line.x[-1]):.4g}" for line in panel.lines]
        return f"Where each line ends: {', '.join(ends)}." if ends else "Nothing to draw."
    values = [f"{dot.label} {_tick(dot.value, '.3g')}" for dot in panel.dots]
    return f"{panel.x.label}: {', '.join(values)}." if values else "Nothing to draw."


def _stroke(index: int) -> dict[str, object]:
    colour, dashes = style(index)
    dashed = {"stroke_dasharray": " ".join(_number(dash * STROKE) for dash in dashes)} if dashes else {}
    return {"stroke": colour, "stroke_width": STROKE, **dashed}


def _points(xs: Floats, ys: Floats, x: Scale, y: Scale) -> str:
    return " ".join(f"{_number(x(float(a)))},{_number(y(float(b)))}" for a, b in zip(xs, ys, strict=True))


def _values(values: Floats) -> str:
    return " ".join(format(value, ".4g") for value in values)


def _number(value: float) -> str:
    """At most one decimal."""
    return f"{value:.1f}".removesuffix(".0").replace("-0.0", "0")


def _tick(value: float, spec: str = ".4g") -> str:
    """A number in short: thousands and more with k, M, G, T."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= max(1e4, 10**power) and abs(value) < 1e15:
            return f"{value / 10**power:{spec}}{letter}"
    return number(value, spec)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
