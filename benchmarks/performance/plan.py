"""What the source's full run would take on this machine, from rates measured in the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import to_pil_image

from benchmarks.performance.clock import median, round_robin
from benchmarks.performance.material import fractals, passed
from benchmarks.performance.scale import Scale
from benchmarks.performance.steps import pair_rates
from kvbench.data.loader import batches
from kvbench.data.photos import PhotoImages

IMAGENET = {"train": 1_281_167, "val": 50_000}
PIXELS = 256
PHOTO = (500, 375)  # ImageNet's usual size


def rates(scale: Scale) -> dict[str, Any]:
    """Seconds an image of decoding (all processes) and of the pass at 256 pixels, and seconds a step by student."""
    pictures = fractals(scale.photos, PIXELS)
    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for n, pixels in enumerate(pictures.pixels):
            path = Path(folder) / f"{n}.jpg"
            noisy = (pixels / 4 + 0.5 + 0.05 * torch.randn(pixels.shape)).clamp(0, 1)  # noise: a photograph's size
            to_pil_image(noisy).resize(PHOTO).save(path, quality=90)
            samples.append((str(path), 0))
        photos = PhotoImages(samples, ("one",), PIXELS, Path(folder))
        acts: dict[str, Callable[[], object]] = {
            "decode": lambda: photos.__getitems__([*range(len(photos))]),
            "decode, processes": lambda: [None for _ in batches(photos, 32)],
            "pass": lambda: passed(pictures),
            "pass bf16": lambda: passed(pictures, half=True),
        }
        seconds = round_robin(acts, 2)
        size = sum(Path(path).stat().st_size for path, _ in samples) / len(samples)
    each = {name: [s / len(photos) for s in values] for name, values in seconds.items()}
    return {"images": each, "steps": pair_rates(scale), "photo bytes": size, "epochs": 10, "batch": 64}


def hours(result: Mapping[str, Any], seeds: int, processors: int = 2) -> dict[str, float]:
    """Hours by stage of both recipes of every student, ``seeds`` seeds, with as many runs at once as processors.

    Decoding is shared by the processors, as the loader's processes do; the pass uses them all.
    """
    images = sum(IMAGENET.values())
    each = {name: median(values) for name, values in result["images"].items()}
    steps = -(-IMAGENET["train"] // result["batch"]) * result["epochs"]
    step = sum(median(values) for values in result["steps"].values()) * 2  # both recipes
    return {
        "decode": images * each["decode"] / processors / 3600,
        "teacher pass": images * each["pass"] / 3600,
        "teacher pass, bf16": images * each["pass bf16"] / 3600,
        "training": steps * step * seeds / 3600,
    }
