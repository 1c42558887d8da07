"""The parts of the measurement, by name, and the file that keeps their results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.performance.cold import cold
from benchmarks.performance.contest import contest
from benchmarks.performance.growth import growth
from benchmarks.performance.large import large
from benchmarks.performance.material import CPU
from benchmarks.performance.plan import rates
from benchmarks.performance.precision import precision
from benchmarks.performance.roofline import roofline
from benchmarks.performance.scale import Scale
from benchmarks.performance.steps import seeds_together, thread_use
from kvbench.utils.environment import environment
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import write_whole

PARTS: dict[str, Callable[[Scale], Any]] = {
    "contest": contest,
    "roofline": roofline,
    "seeds": seeds_together,
    "threads": thread_use,
    "precision": precision,
    "growth": growth,
    "plan": rates,
    "large": large,
    "cold": cold,
}


def measure(names: Sequence[str], scale: Scale, path: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Measure parts and keep each in the JSON file ``path`` as soon as it is done; returns all that the file holds.

    Raises:
        UserError: a part is not known, or the file holds results of another scale.
    """
    for name in names:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    results: dict[str, Any] = read(path) if path.exists() else {"scale": scale.name, "parts": {}}
    if results["scale"] != scale.name:
        raise UserError(f"{path} holds results of the scale {results['scale']}: remove it, or name another --results.")
    results["environment"] = environment(CPU)
    for name in names:
        say(f"{name} ...")
        start = time.perf_counter()
        made = PARTS[name](scale)
        results["parts"][name] = {"seconds": time.perf_counter() - start, "result": made}
        say(f"{name}: {results['parts'][name]['seconds']:.0f} s")
        with write_whole(path) as aside:
            aside.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def read(path: Path) -> dict[str, Any]:
    """Read the file of results; raises `UserError` where there is none or it is none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not {"scale", "parts"} <= results.keys():
            raise ValueError("it lacks scale and parts")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no file of results ({error}): measure first, or remove it.") from error
    return dict(results)
