"""What a contest's samples say: the whole table's seconds for each contestant, and the ratios between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.performance.clock import scaled


@dataclass(frozen=True)
class Standing:
    """Seconds of one plain teacher pass (``unit``), of every peer's table (scaled up) and of kvbench's (whole)."""

    unit: float
    peers: dict[str, float]
    kvbench: dict[str, float]

    def units(self, seconds: float) -> float:
        """In plain teacher passes."""
        return seconds / self.unit

    @property
    def best(self) -> float:
        """kvbench in float32, two configurations side by side."""
        return self.kvbench["side by side"]


def standing(result: Mapping[str, Any]) -> Standing:
    """Scale the samples of `contest` up.

    Source and torchdistill: the median step of a configuration, times its steps an epoch, epochs and configurations.
    Many heads: the median step, times steps and epochs. The teacher pass: the median batch, times batches.
    """
    once = result["steps"] * result["epochs"]
    times = {"source": once * result["configurations"], "torchdistill": once * result["configurations"], "heads": once}
    sums = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    return Standing(
        unit=scaled(result["peers"]["unit"], result["steps"]),
        peers={name: scaled(result["peers"][name], n) for name, n in times.items() if result["peers"][name]},
        kvbench={
            "one after another": sums["extract"] + sums["train"],
            "side by side": sums["extract"] + sums["train side by side"],
            "side by side, bf16": sums["extract bf16"] + sums["train side by side"],
        },
    )
