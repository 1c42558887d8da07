"""How the cost grows with images, seeds, classes and configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.performance.clock import Seconds, median, round_robin
from benchmarks.performance.material import fractals, once, passed, synthetic
from benchmarks.performance.scale import Scale
from kvbench.core.trainer import Training


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log sizes, by least squares."""
    xs, ys = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def growth(scale: Scale) -> dict[str, dict[str, Seconds]]:
    """Seconds by size: a pass, an epoch of Model3 against N, S and K, one of several configurations."""
    n = scale.rows
    pictures = fractals(n // 2, min(64, scale.pixels))
    banks = {rows: synthetic(rows) for rows in (n // 4, n // 2, n, 2 * n)}
    by_classes = {k: synthetic(n // 2, classes=k) for k in (100, 300, 1000, 3000)}
    half = banks[n // 2]

    def train(student: str, bank: Any, seeds: int = 1) -> Callable[[], object]:
        return Training(once(student), bank, bank, range(seeds)).epoch

    def several(count: int) -> Callable[[], object]:
        trainings = [Training(once("Model3"), half, half, [0]) for _ in range(count)]

        def one_epoch() -> None:
            for training in trainings:
                training.epoch()

        return one_epoch

    acts: dict[str, dict[int, Callable[[], object]]] = {
        "teacher pass, images N": {k: partial(passed, pictures.part(0, k)) for k in (n // 8, n // 4, n // 2)},
        "epoch, images N": {k: train("Model3", bank) for k, bank in banks.items()},
        "epoch, seeds S": {k: train("Model3", half, k) for k in (2, 4, 8)},
        "epoch, classes K": {k: train("Model3", bank) for k, bank in by_classes.items()},
        "epoch, configurations": {k: several(k) for k in _counts(2 * len(scale.students))},
    }
    flat = {f"{line}|{size}": act for line, sizes in acts.items() for size, act in sizes.items()}
    seconds = round_robin(flat, max(2, scale.rounds - 2))
    return {line: {str(size): seconds[f"{line}|{size}"] for size in sizes} for line, sizes in acts.items()}


def _counts(most: int) -> list[int]:
    return sorted({max(1, most // 4), most // 2, most})


def exponents(result: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The fitted exponent of every line."""
    return {
        line: exponent([float(s) for s in sizes], [median(v) for v in sizes.values()]) for line, sizes in result.items()
    }


def plot(result: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw every line in a panel of its own, with its fitted slope, as an SVG or PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    fitted = exponents(result)
    figure = Figure(figsize=(3.0 * len(result), 3.2), layout="constrained")
    axes = figure.subplots(1, len(result), squeeze=False)[0]
    for axis, (line, sizes) in zip(axes, result.items(), strict=True):
        xs = [float(s) for s in sizes]
        ys = [median(v) for v in sizes.values()]
        low, high = [min(v) for v in sizes.values()], [max(v) for v in sizes.values()]
        errors = [[y - b for y, b in zip(ys, low, strict=True)], [t - y for y, t in zip(ys, high, strict=True)]]
        axis.errorbar(xs, ys, yerr=errors, fmt="o", capsize=3, label="median, least to most")
        centre = math.exp(sum(map(math.log, ys)) / len(ys)), math.exp(sum(map(math.log, xs)) / len(xs))
        axis.plot(xs, [centre[0] * (x / centre[1]) ** fitted[line] for x in xs], label=f"slope {fitted[line]:.2f}")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(xs, [f"{x:g}" for x in xs])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_yticks([ys[0], ys[-1]], [f"{ys[0]:.2g}", f"{ys[-1]:.2g}"])
        axis.yaxis.set_minor_formatter(NullFormatter())
        what, _, size = line.partition(", ")
        axis.set_title(what)
        axis.set_xlabel(size)
        axis.set_ylabel("seconds")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
