"""What a teacher pass in bfloat16 does to histories, beside what another seed does."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

from benchmarks.performance.material import InMemory, passed
from benchmarks.performance.scale import Scale
from kvbench.core.recipe import Configuration
from kvbench.core.trainer import Training
from kvbench.data.base import Images
from kvbench.workloads import WORKLOADS

SEEDS = range(3)
METRICS = ("train_loss", "val_loss", "val_accuracy", "agreement")


def precision(scale: Scale) -> dict[str, Any]:
    """Train Model1 and Model3 with three seeds on the generated images' banks of both precisions.

    Returns each metric's last value by student, precision and seed.
    """
    row = WORKLOADS["fractals"]
    counts = scale.counts or (row.train_count, row.val_count)
    made: dict[str, Any] = {}
    rendered: list[InMemory] = []
    for split, count in zip(("train", "val"), counts, strict=True):
        images: Images = row.images(split, None, count)
        rendered.append(InMemory(*images.__getitems__([*range(len(images))]), images.classes))
    recipe = replace(row.recipe, epochs=scale.epochs)
    for name, half in (("float32", False), ("bfloat16", True)):
        train, val = (passed(part, half=half) for part in rendered)
        for student in ("Model1", "Model3"):
            training = Training(Configuration(student, recipe), train, val, SEEDS)
            training.finish()
            last = [r for r in training.history if r["epoch"] == recipe.epochs]
            made.setdefault(student, {})[name] = {metric: [r[metric] for r in last] for metric in METRICS}
    return {"students": made, "seeds": len(SEEDS), "counts": list(counts)}


def differences(precisions: dict[str, dict[str, list[float]]], metric: str) -> tuple[float, float]:
    """Mean difference of bfloat16 from float32 over the seeds, and the spread between seeds (SD), in percent."""
    whole, half = precisions["float32"][metric], precisions["bfloat16"][metric]
    level = statistics.mean(whole) or math.nan  # an accuracy of 0 has no percent
    moved = statistics.mean(h - w for h, w in zip(half, whole, strict=True))
    return 100 * moved / level, 100 * statistics.stdev(whole) / level
