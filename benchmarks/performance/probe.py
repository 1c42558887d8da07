"""A pytest plugin that times what a cold ``pytest benchmarks/`` does: ``-p benchmarks.performance.probe``.

Writes seconds by name to the file that ``KVBENCH_PROBE`` names. ``KVBENCH_PROBE_SHRINK`` (train, val, epochs) makes the
workload small, for a quick look.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
        recipe = replace(row.recipe, epochs=epochs)
        WORKLOADS["fractals"] = replace(row, train_count=train, val_count=val, recipe=recipe)


def pytest_unconfigure() -> None:
    """Leave the seconds."""
    Path(os.environ["KVBENCH_PROBE"]).write_text(json.dumps(SECONDS), encoding="utf-8")
