"""What there is to draw of a history frame, as numbers: `svg` draws it for pages, `charts` for papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Union

import numpy as np

from kvbench.findings.design import Design
from kvbench.reporting.table import Table
from kvbench.results import history
from kvbench.stats.intervals import Floats, time_to_target
from kvbench.utils.errors import unknown
from kvbench.utils.text import number

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 20  # of a panel: more cannot be told apart
MOST_POINTS = 100  # of a line: more than a panel has room for
CURVES = {
    "train_loss": "training loss (nat)",
    "val_loss": "validation loss (nat)",
    "val_accuracy": "validation accuracy",
    "agreement": "agreement with the teacher",
}
CURVES_CHART = ("train_loss", "val_accuracy")  # the usual picture
CLOCKS = {"epochs": "epochs", "seconds": "seconds of training", "flops": "epochs x FLOPs a sample"}
LOSS_ACCURACY, SECONDS, TIME = "loss-accuracy", "seconds", "time"
# Colours that colour-blind readers tell apart (Okabe and Ito's, and a violet), on white and on black; dashes as well,
# in widths of the line.
STYLES: list[tuple[str, tuple[float, ...]]] = [
    ("#2F8FD8", ()),
    ("#009E73", ()),
    ("#D55E00", (6, 1.5)),
    ("#E69F00", (3, 1.2)),
    ("#CC79A7", (6, 1.5, 1.5, 1.5)),
    ("#9A7FD1", (1.2, 1.2)),
    ("#808080", (9, 2, 1.5, 2, 1.5, 2)),
]


def style(index: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of the student of that index: 49 different ones."""
    around, place = divmod(index, len(STYLES))
    return STYLES[place][0], STYLES[(place + around) % len(STYLES)][1]


@dataclass(frozen=True)
class Axis:
    """What an axis is called, with its unit; whether it is logarithmic, and whether it falls from left to right."""

    label: str
    log: bool = False
    falling: bool = False


@dataclass(frozen=True)
class Line:
    """A curve: mean over seeds at (E,) places, with a band from the lowest to the highest seed.

    ``name`` is the configuration, ``label`` what it is called inside its panel, ``style`` an index for `style`.
    """

    name: str
    label: str
    style: int
    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Lines:
    """A panel of curves; ``behind`` are the reference's."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    behind: Sequence[Line] = ()


@dataclass(frozen=True)
class Dot:
    """A value with a range."""

    name: str
    label: str
    style: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dots:
    """A panel with a row for each value; ``behind`` are the reference's."""

    title: str
    x: Axis
    dots: Sequence[Dot]
    behind: Sequence[Dot] = ()


Panel = Union[Lines, Dots]


@dataclass(frozen=True)
class Figure:
    """A chart: panels, mostly one a recipe, that share their axes' limits.

    Args:
        id: its name in options and addresses.
        title: its heading.
        caption: what it shows.
        panels: at least one, all of lines or all of dots.
        notes: what could not be drawn.
    """

    id: str
    title: str
    caption: str
    panels: Sequence[Panel]
    notes: Sequence[str] = ()
    table: str = "train_loss"


@dataclass(frozen=True)
class Runs:
    """A configuration's runs: (S,) seeds, (E,) epochs, (S, E, METRICS) values; NaN where there is none."""

    seeds: Floats
    epochs: Floats
    values: Floats

    def of(self, metric: str) -> Floats:
        """(S, E) values; what is infinite counts as no number."""
        values = self.values[:, :, history.METRICS.index(metric)]
        return np.where(np.isfinite(values), values, np.nan)


def _runs(histories: pd.DataFrame) -> dict[str, Runs]:
    found = {}
    for name, rows in histories.groupby("configuration", sort=False):
        seeds, mine = np.unique(rows["seed"].to_numpy(), return_inverse=True)
        epochs, steps = np.unique(rows["epoch"].to_numpy(), return_inverse=True)
        values = np.full((len(seeds), len(epochs), len(history.METRICS)), np.nan)
        values[mine, steps] = rows[list(history.METRICS)].to_numpy(dtype=np.float64)
        found[str(name)] = Runs(seeds, epochs.astype(np.float64), values)
    return found


@dataclass(frozen=True)
class Numbers:
    """What figures are made of.

    Args:
        histories: a history frame.
        design: the study's: its recipes are the panels; what it does not know has one of its own.
        costs: FLOPs per sample of each configuration, where they are known.
        reference: the reference's history frame, to stand behind; None: there is none.
        behind: what that one is called.
        elsewhere: the hardware that the reference's seconds are of, where it is another: they are not drawn.
        students: those that have the first styles, in this order: so several histories can share them.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> reference = load_reference(Path("expected"), "fractals", STUDY.design)
        >>> [figure.id for figure in figures(Numbers(reference.histories, STUDY.design, reference.costs))][:2]
        ['train_loss', 'val_loss']
    """

    histories: pd.DataFrame
    design: Design
    costs: Mapping[str, float]
    reference: pd.DataFrame | None = None
    behind: str = "the reference"
    elsewhere: str = ""
    students: Sequence[str] = ()

    @cached_property
    def runs(self) -> Mapping[str, Runs]:
        """The histories by configuration."""
        return _runs(self.histories)

    @cached_property
    def recorded(self) -> Mapping[str, Runs]:
        """The reference's, likewise; empty if there is none."""
        return {} if self.reference is None else _runs(self.reference)

    @cached_property
    def blocks(self) -> dict[str, dict[str, str]]:
        """Recipe -> student -> configuration, of the configurations that are drawn."""
        return {recipe: self._chosen(block) for recipe, block in self.design.blocks(self.runs).items()}

    def _chosen(self, block: dict[str, str]) -> dict[str, str]:
        """At most `MOST_LINES` of a recipe's configurations: those with the lowest last training loss."""
        ends = {name: self.runs[name].of("train_loss")[:, -1].mean() for name in block.values()}
        kept = sorted(ends, key=lambda name: float(np.nan_to_num(ends[name], nan=np.inf)))[:MOST_LINES]
        return {student: name for student, name in block.items() if name in kept}

    @property
    def left_out(self) -> list[str]:
        """What to say of configurations that are not drawn, a sentence each."""
        return [
            f"Of {len(block)} configurations{f' with {recipe}' if recipe else ''} the {MOST_LINES} with the lowest last"
            " training loss are drawn."
            for recipe, block in self.design.blocks(self.runs).items()
            if len(block) > MOST_LINES
        ]

    @cached_property
    def styles(self) -> dict[str, int]:
        """The style of each student that is drawn, the same in every figure."""
        students = dict.fromkeys([*self.students, *(student for block in self.blocks.values() for student in block)])
        return {student: index for index, student in enumerate(students)}

    @property
    def groups(self) -> dict[str, str]:
        """The group of each student that has one: the first that the study names it in."""
        named = reversed([*self.design.groups.items()])
        return {student: group for group, students in named for student in students}

    @property
    def seeds(self) -> str:
        """What a line and its band are."""
        count = len(history.seeds(self.histories))
        return f"mean over {count} seeds, band from the lowest to the highest" if count > 1 else "one seed"


def figures(numbers: Numbers) -> list[Figure]:
    """Every figure for which there are numbers."""
    made = [make(numbers) for make in MAKERS.values()]
    return [figure for figure in made if any(_filled(panel) for panel in figure.panels)]


def chart(numbers: Numbers, name: str) -> list[Figure]:
    """The figures of a chart, below each other: one of `MAKERS`, or ``curves`` for loss and accuracy.

    Raises:
        UserError: there is no such chart, or there are no numbers for it.
    """
    if name == "curves":
        return [curves(numbers, metric) for metric in CURVES_CHART]
    known = {figure.id: figure for figure in figures(numbers)}
    if name not in known:
        raise unknown("chart", name, ["curves", *known])
    return [known[name]]


def heading(drawn: Sequence[Figure], numbers: Numbers) -> str:
    """What to write above a chart for a paper, which has no caption: what lines and bands are, or the title."""
    text = numbers.seeds if drawn[0].id in CURVES else drawn[0].title
    behind = next((panel for figure in drawn for panel in figure.panels if panel.behind), None)
    look = "dotted" if isinstance(behind, Lines) else "hollow"
    return f"{text}; {look}: {numbers.behind}" if behind else text


def _filled(panel: Panel) -> bool:
    return bool(panel.lines if isinstance(panel, Lines) else panel.dots)


def curves(numbers: Numbers, metric: str) -> Figure:
    """A metric against epochs: losses on a logarithmic axis."""
    panels, missing = [], []
    for recipe, block in numbers.blocks.items():
        lines = [_line(numbers, numbers.runs, student, name, metric) for student, name in block.items()]
        behind = [_line(numbers, numbers.recorded, student, name, metric) for student, name in block.items()]
        missing += [line.name for line in lines if not len(line.x)]
        axis = Axis(CURVES[metric], log=metric in history.LOSSES)
        panels.append(Lines(_panel(recipe), Axis("epoch"), axis, _some(lines), _some(behind)))
    title = CURVES[metric].partition(" (")[0].capitalize()
    grey = f" Grey and dotted: the mean of {numbers.behind}." if any(panel.behind for panel in panels) else ""
    return Figure(metric, title, f"{title} after each epoch, {numbers.seeds}.{grey}", panels, _notes(missing),
                  metric)  # fmt: skip


def loss_accuracy(numbers: Numbers) -> Figure:
    """Accuracy against training loss, epoch by epoch."""
    panels = []
    axes = Axis(CURVES["train_loss"], log=True, falling=True), Axis(CURVES["val_accuracy"])
    for recipe, block in numbers.blocks.items():
        lines = [_path(numbers, numbers.runs, student, name) for student, name in block.items()]
        behind = [_path(numbers, numbers.recorded, student, name) for student, name in block.items()]
        panels.append(Lines(_panel(recipe), *axes, _some(lines), _some(behind)))
    grey = " Grey and dotted: the reference." if any(panel.behind for panel in panels) else ""
    caption = f"Validation accuracy against training loss, epoch after epoch, means over seeds; a dot ends each.{grey}"
    return Figure(LOSS_ACCURACY, "Loss against accuracy", caption, panels, [])


def time_to_loss(numbers: Numbers, clock: str) -> Figure:
    """When each configuration first has the loss that every one of its recipe ends at or below, on a clock."""
    panels, missing, left_out = [], [], False
    for recipe, block in numbers.blocks.items():
        targets = _targets(numbers.runs, block)
        target = float(np.mean([*targets.values()])) if targets else np.nan
        dots = _times(numbers, numbers.runs, block, clock, targets)
        recorded = {seed: target for name in block.values() if name in numbers.recorded
                    for seed in numbers.recorded[name].seeds}  # fmt: skip
        missing += [name for name in block.values() if name not in {dot.name for dot in dots}]
        label = f"{CLOCKS[clock]}, to {number(target, '.3g')} nat" if dots else CLOCKS[clock]
        behind = _times(numbers, numbers.recorded, block, clock, recorded)
        if clock == "seconds" and numbers.elsewhere:
            behind, left_out = [], left_out or bool(behind)
        panels.append(Dots(_panel(recipe), Axis(label), dots, behind))
    title = f"Time to target in {clock.replace('flops', 'FLOPs')}"
    caption = (
        f"{CLOCKS[clock][0].upper()}{CLOCKS[clock][1:]} until the training loss is first as low as the highest last one"
        " of the recipe, which all get to: mean over seeds, with the range."
        + (" Hollow: the reference, to the same loss." if any(panel.behind for panel in panels) else "")
    )
    notes = [f"Of {numbers.behind} no seconds are shown: they are of other hardware ({numbers.elsewhere})."]
    return Figure(f"time-{clock}", title, caption, panels, [*_notes(missing), *(notes if left_out else [])], TIME)


def seconds(numbers: Numbers) -> Figure:
    """Seconds of training an epoch."""
    panels = []
    for recipe, block in numbers.blocks.items():
        dots = []
        for student, name in block.items():
            cells = numbers.runs[name].of("seconds")
            cells = cells[np.isfinite(cells)]
            if len(cells):
                values = float(np.median(cells)), float(cells.min()), float(cells.max())
                dots.append(Dot(name, student, numbers.styles[student], *values))
        panels.append(Dots(_panel(recipe), Axis("seconds of training an epoch"), dots))
    caption = "Seconds of training an epoch: the median over epochs and seeds, from the fastest to the slowest."
    return Figure(SECONDS, "Seconds an epoch", caption, panels, [], SECONDS)


Maker = Callable[[Numbers], Figure]


def _curves_of(metric: str) -> Maker:
    return lambda numbers: curves(numbers, metric)


def _times_on(clock: str) -> Maker:
    return lambda numbers: time_to_loss(numbers, clock)


MAKERS: dict[str, Maker] = {
    **{metric: _curves_of(metric) for metric in CURVES},
    **{f"time-{clock}": _times_on(clock) for clock in CLOCKS},
    LOSS_ACCURACY: loss_accuracy,
    SECONDS: seconds,
}


def time_table(drawn: Iterable[Figure]) -> Table:
    """The figures of time to target in numbers: a row a configuration, a column a clock."""
    clocks = [figure for figure in drawn if figure.table == TIME]
    cells: dict[str, dict[str, str]] = {}
    for figure in clocks:
        for panel in figure.panels:
            for dot in panel.dots if isinstance(panel, Dots) else ():
                ends = (number(value, ".3g") for value in (dot.value, dot.low, dot.high))
                cells.setdefault(dot.name, {})[figure.id] = "{} ({} to {})".format(*ends)
    rows = [[name, *(row.get(figure.id, "-") for figure in clocks)] for name, row in cells.items()]
    return Table(["configuration", *(CLOCKS[figure.id.removeprefix("time-")] for figure in clocks)], rows)


def on_scale(panel: Lines, *, log: bool) -> Lines:
    """The same curves on a logarithmic or a linear axis: what it cannot show is left out."""
    return replace(panel, y=replace(panel.y, log=log))


def _panel(recipe: str) -> str:
    return recipe or "others"


def _notes(missing: Sequence[str]) -> list[str]:
    lost = f"Not drawn, as there is no number for some seed: {', '.join(missing[:MOST_LINES])}"
    more = f" and {len(missing) - MOST_LINES} more" if len(missing) > MOST_LINES else ""
    return [f"{lost}{more}."] if missing else []


def _some(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if len(line.x)]


def _line(numbers: Numbers, runs: Mapping[str, Runs], student: str, name: str, metric: str) -> Line:
    """A configuration's line, at the epochs where every seed has a number; empty if there is none."""
    epochs, values = np.empty(0), np.empty((1, 0))
    if name in runs:
        values = runs[name].of(metric)
        kept = np.flatnonzero(np.isfinite(values).all(axis=0))
        if len(kept) > MOST_POINTS:
            kept = kept[np.unique(np.linspace(0, len(kept) - 1, MOST_POINTS).astype(int))]
        epochs, values = runs[name].epochs[kept], values[:, kept]
    ends = values.min(axis=0), values.max(axis=0)
    return Line(name, student, numbers.styles[student], epochs, values.mean(axis=0), *ends)


def _path(numbers: Numbers, runs: Mapping[str, Runs], student: str, name: str) -> Line:
    loss, accuracy = (_line(numbers, runs, student, name, metric) for metric in ("train_loss", "val_accuracy"))
    both = np.intersect1d(loss.x, accuracy.x)
    losses, shares = loss.y[np.isin(loss.x, both)], accuracy.y[np.isin(accuracy.x, both)]
    kept = losses > 0
    return Line(name, student, loss.style, losses[kept], *[shares[kept]] * 3)


def _targets(runs: Mapping[str, Runs], block: Mapping[str, str]) -> dict[float, float]:
    """Of each seed the highest last loss of a recipe's configurations, leaving out those that have lost a number."""
    targets: dict[float, float] = {}
    for name in block.values():
        if np.isfinite(losses := runs[name].of("train_loss")).all():
            for seed, last in zip(runs[name].seeds, losses[:, -1], strict=True):
                targets[seed] = max(last, targets.get(seed, 0.0))
    return targets


def _times(
    numbers: Numbers, runs: Mapping[str, Runs], block: Mapping[str, str], clock: str, targets: Mapping[float, float]
) -> list[Dot]:
    """The times to each seed's target, of the configurations of which all timed seeds get there."""
    dots = []
    for student, name in block.items():
        if name not in runs or not targets:
            continue
        own, losses = runs[name], runs[name].of("train_loss")
        to = [time_to_target(own.epochs, curve, targets.get(seed, np.nan))
              for seed, curve in zip(own.seeds, losses, strict=True)]  # fmt: skip
        of_an_epoch = _of_an_epoch(numbers, own, name, clock)
        times = (np.array(to) * of_an_epoch)[~np.isnan(of_an_epoch)]
        if len(times) and np.isfinite(times).all():
            values = float(times.mean()), float(times.min()), float(times.max())
            dots.append(Dot(name, student, numbers.styles[student], *values))
    return dots


def _of_an_epoch(numbers: Numbers, runs: Runs, name: str, clock: str) -> Floats:
    """(S,) what an epoch takes on a clock; NaN where that is not known."""
    if clock == "seconds":  # the median, as one epoch that stalled on a shared machine would decide a sum
        cells = runs.of("seconds")
        return np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in cells])
    return np.full(len(runs.seeds), 1.0 if clock == "epochs" else numbers.costs.get(name, np.nan))
