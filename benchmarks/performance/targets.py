"""What was aimed at, and what was measured: hits and misses, with the reason for each miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.performance import growth
from benchmarks.performance.clock import median
from benchmarks.performance.standing import standing


@dataclass(frozen=True)
class Target:
    """A row: what is measured, the bound, whether it is a least (or a most) one, and what a miss comes from."""

    what: str
    bound: float
    measured: float
    least: bool
    reason: str

    @property
    def hit(self) -> bool:
        """Whether the measured number is on the bound's side."""
        return self.measured >= self.bound if self.least else self.measured <= self.bound


def targets(parts: Mapping[str, Mapping[str, Any]]) -> list[Target]:
    """The rows of all parts that were measured."""
    rows: list[Target] = []
    for name, make in (
        ("contest", _contest),
        ("seeds", lambda result: _seeds(result, parts.get("roofline"))),
        ("roofline", _roofline),
        ("large", _large),
        ("cold", _cold),
        ("growth", _growth),
    ):
        if name in parts:
            rows += make(parts[name])
    return rows


def _contest(result: Mapping[str, Any]) -> list[Target]:
    made = standing(result)
    pieces = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    share = made.units(pieces["train side by side"])
    passes = made.units(pieces["extract"]), made.units(pieces["extract bf16"])
    work = f"The training alone takes {share:.2f} passes, the bank {passes[0]:.2f} (bf16 {passes[1]:.2f})"
    table = "the whole table, in plain teacher passes"
    slower = passes[1] / passes[0]
    half = f"{work}: a pass in bf16 takes {slower:.2f} times as long as in fp32 on this processor."
    rows = [
        Target(f"{table}, two configurations side by side", 1.5, made.units(made.best), False, f"{work}."),
        Target(f"{table}, likewise, bank in bf16", 1, made.units(made.kvbench["side by side, bf16"]), False, half),
        Target(
            f"{table}, one after another",
            1.5,
            made.units(made.kvbench["one after another"]),
            False,
            "One seed of one configuration is trained on one thread; the other is idle.",
        ),
    ]
    names = {"source": ("the source's loop", 100), "torchdistill": ("torchdistill", 50), "heads": ("many heads", 8)}
    for name, (what, bound) in names.items():
        if name in made.peers:
            reason = (
                f"It takes {made.units(made.peers[name]):.1f} passes, kvbench {made.units(made.best):.2f}, of which the"
                f" bank is {passes[0]:.2f}."
            )
            rows.append(Target(f"{what} / kvbench, same table", bound, made.peers[name] / made.best, True, reason))
    return rows


def _seeds(result: Mapping[str, Any], roofline: Mapping[str, Any] | None) -> list[Target]:
    rows = []
    for name, row in result["students"].items():
        for lone, threads in (("lone", "one thread"), ("lone, all threads", "all threads")):
            if lone == "lone":
                reason = f"{result['threads']} threads can do no more than {result['threads']} times what one does."
            else:
                reason = "A lone step leaves little of the threads idle."
            if roofline is not None and name == "Model3":  # whose step the roofline is of
                least = roofline["limits"]["both"] / result["threads"]
                each = median(row[lone]) / result["seeds"] / result["steps"]
                reason += (
                    f" It takes {1e3 * each:.1f} ms; its products and optimiser take {1e3 * least:.1f} at least"
                    f" (roofline, all threads busy), so that no more than {each / least:.1f} times can be saved."
                )
            what = f"lone runs on {threads} / {result['seeds']} seeds together, {name}"
            rows.append(Target(what, 2, median(row[lone]) / median(row["together"]), True, reason))
    return rows


def _roofline(result: Mapping[str, Any]) -> list[Target]:
    speeds = {name: value / 1e9 for name, value in result["speeds"].items()}
    small = ", ".join(f"{name}: {speeds[name]:.0f}" for name in speeds if "@" in name)
    reason = (
        f"Products of the step's sizes reach less than large ones ({small}; large: {speeds['product']:.0f} GFLOP/s),"
        " and activations, softmax and the gather are in neither limit."
    )
    return [Target("Model3's training step, share of the roofline", 0.6, result["share"]["both"], True, reason)]


def _large(result: Mapping[str, Any]) -> list[Target]:
    each = {name: median(values) * 1e3 for name, values in result["gather"].items()}
    reason = (
        f"A gather from the file takes {each['file, as drawn']:.2f} ms, from memory {each['memory, as drawn']:.2f} ms"
        f" (sorted: {each['file, sorted']:.2f} and {each['memory, sorted']:.2f})."
    )
    return [
        Target(
            f"a step from the file / from memory, {name}", 1.1, median(r["file"]) / median(r["memory"]), False, reason
        )
        for name, r in result["steps"].items()
    ]


def _cold(result: Mapping[str, Any]) -> list[Target]:
    wall, parts = result["wall"], result["parts"]
    other = wall - parts["teacher"] - parts["training"]
    most = sorted(((parts[name], name) for name in ("render", "evaluation", "bank files", "harness")), reverse=True)
    told = ", ".join(f"{name} {seconds:.1f} s" for seconds, name in most)
    told += " (evaluation: all validation images through a student after every epoch, and the state that it leaves)"
    return [
        Target("all but teacher and training of a cold run, share", 0.1, other / wall, False, f"{told}."),
        Target(
            f"a cold run ({' '.join(result['options'])}), minutes",
            6,
            wall / 60,
            False,
            f"Training is {parts['training'] / 60:.1f} of the {wall / 60:.1f} minutes.",
        ),
    ]


def _growth(result: Mapping[str, Any]) -> list[Target]:
    steepest, line = max((value, line) for line, value in growth.exponents(result).items())
    reason = f"It is that of {line}."
    return [Target("growth of cost with N, S, K and configurations, largest exponent", 1, steepest, False, reason)]
