"""A cold ``pytest benchmarks/`` on the generated images, and where its time goes.

In that run this module is a plugin (``-p benchmarks.performance.cold``): it writes seconds by name, and the most bytes
of memory that the process had, to the file that ``KVBENCH_PROBE`` names. ``KVBENCH_PROBE_SHRINK`` (train, val, epochs)
makes the workload small, for a quick look.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance.material import CPU, Scale
from benchmarks.performance.roofline import step_phases
from kvbench.core.numerics import accelerator
from kvbench.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def cold(scale: Scale) -> dict[str, Any]:
    """Run the benchmark with an empty cache in a process of its own; returns seconds by what they went to.

    Raises:
        UserError: the run broke off. A run whose comparisons fail is still a run.
    """
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.json"
        arguments = ["benchmarks/", "-q", "-p", "benchmarks.performance.cold", "--kvbench-cache", folder, *scale.cold]
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
        "device": (accelerator() or CPU).type,
        "memory": measured["memory"],
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


# In the run

SECONDS: dict[str, float] = {}


def timed(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """``act``, adding the seconds of each call to ``SECONDS[name]``."""

    @functools.wraps(act)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return act(*args, **kwargs)
        finally:
            SECONDS[name] = SECONDS.get(name, 0.0) + time.perf_counter() - start

    return wrapped


@pytest.hookimpl(tryfirst=True)  # the session looks its workload up when it is configured
def pytest_configure() -> None:
    """Put the stopwatches in."""
    from torchvision.models import ResNet

    from kvbench.core.trainer import Training
    from kvbench.data.fractals import FractalImages
    from kvbench.harness.setup import Settings
    from kvbench.studies.kv_memory import STUDY
    from kvbench.studies.registry import BUILT_IN
    from kvbench.workloads import WORKLOADS

    places: list[tuple[Any, str, str]] = [
        (Settings, "open_banks", "banks"),
        (FractalImages, "__getitems__", "render"),
        (ResNet, "forward", "teacher"),
        (Training, "epoch", "training"),
        (Training, "evaluate", "evaluation"),
    ]
    for owner, attribute, name in places:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    if os.environ.get("KVBENCH_PROBE_SHRINK"):
        train, val, epochs = map(int, os.environ["KVBENCH_PROBE_SHRINK"].split())
        row = WORKLOADS["fractals"]
        WORKLOADS["fractals"] = replace(row, train_count=train, val_count=val)
        changes = {**STUDY.workloads["fractals"], "epochs": epochs}
        BUILT_IN[STUDY.name] = replace(STUDY, workloads={"fractals": changes})


def pytest_unconfigure() -> None:
    """Leave the seconds, and the most bytes of memory that the process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    Path(os.environ["KVBENCH_PROBE"]).write_text(json.dumps({**SECONDS, "memory": peak}), encoding="utf-8")
