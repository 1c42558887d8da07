"""A cold ``pytest benchmarks/`` on the generated images, and where its time goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.performance.scale import Scale
from benchmarks.performance.steps import step_phases
from kvbench.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def cold(scale: Scale) -> dict[str, Any]:
    """Run the benchmark with an empty cache in a process of its own; returns seconds by what they went to.

    Raises:
        UserError: the run broke off. A run whose comparisons fail is still a run.
    """
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.json"
        arguments = ["benchmarks/", "-q", "-p", "benchmarks.performance.probe", "--kvbench-cache", folder, *scale.cold]
        shrink = " ".join(map(str, scale.shrink or ()))
        environment = {**os.environ, "KVBENCH_PROBE": str(probe), "KVBENCH_PROBE_SHRINK": shrink}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )
        wall = time.perf_counter() - start
        if done.returncode not in (0, 1) or not probe.exists():
            raise UserError(f"pytest benchmarks/ broke off ({done.returncode}): {(done.stdout + done.stderr)[-2000:]}")
        measured = json.loads(probe.read_text(encoding="utf-8"))
    return {
        "options": list(scale.cold),
        "passed": done.returncode == 0,
        "wall": wall,
        "parts": divided(wall, measured),
        "phases": step_phases(scale),
        "epochs": scale.epochs,
    }


def divided(wall: float, measured: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a run, divided among what it does; ``harness`` is all that has no other name.

    ``measured``: seconds in banks (with render and teacher within), render, teacher, training, evaluation.
    """
    parts = {name: measured[name] for name in ("render", "teacher", "training", "evaluation")}
    parts["bank files"] = measured["banks"] - parts["render"] - parts["teacher"]
    parts["harness"] = wall - measured["banks"] - parts["training"] - parts["evaluation"]
    return parts


def shares(phases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Share of each phase of a training step, over all students (each is trained for as many steps)."""
    names = list(next(iter(phases.values())))
    total = sum(sum(row.values()) for row in phases.values())
    return {name: sum(row[name] for row in phases.values()) / total for name in names}
