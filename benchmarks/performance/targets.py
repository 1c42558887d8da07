"""What was aimed at, and what was measured: hits and misses, with the reason for each miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        ("seeds", _seeds),
        ("roofline", _roofline),
        ("large", _large),
        ("cold", _cold),
    ):
        if name in parts:
            rows += make(parts[name])
    return rows


def _contest(result: Mapping[str, Any]) -> list[Target]:
    made = standing(result)
    pieces = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    share = made.units(pieces["train side by side"])
    passes = made.units(pieces["extract"]), made.units(pieces["extract bf16"])
    work = f"The training alone is {share:.2f} passes, the bank {passes[0]:.2f} (bf16 {passes[1]:.2f})"
    rows = [
        Target("the whole table, in plain teacher passes", 1.5, made.units(made.best), False, f"{work}."),
        Target(
            "the same with the bank made in bf16",
            1.0,
            made.units(made.kvbench["side by side, bf16"]),
            False,
            f"{work}: {'training alone passes the bound' if share > 1 else 'bf16 saves too little of the pass here'}.",
        ),
    ]
    names = {"source": ("the source's loop", 100), "torchdistill": ("torchdistill", 50), "heads": ("many heads", 8)}
    for name, (what, bound) in names.items():
        if name in made.peers:
            passes_made = made.units(made.peers[name])
            reason = (
                f"It makes {passes_made:.0f} passes' worth of work, kvbench {made.units(made.best):.2f}; with as little"
                f" training as kvbench's own, only {passes_made / made.units(made.best):.0f} times can be saved."
            )
            rows.append(Target(f"{what} / kvbench, same table", bound, made.peers[name] / made.best, True, reason))
    return rows


def _seeds(result: Mapping[str, Any]) -> list[Target]:
    return [
        Target(
            f"lone runs / {result['seeds']} seeds together, {name}",
            2,
            median(row["lone"]) / median(row["together"]),
            True,
            f"{result['threads']} threads bound it to twice one thread's pace, where a lone run uses them badly.",
        )
        for name, row in result["students"].items()
    ]


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
