"""Where numbers come from: versions, hardware, date."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What all records of a session share: for the head of a report, and for the provenance of a reference.
FACTS = (
    "train_count", "val_count", "notes", "teacher_val_accuracy", "versions", "hardware", "threads", "random_numbers",
    "date",
)  # fmt: skip
PACKAGES = ("kvbench", "torch", "torchvision", "pytest-benchmark")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware class, thread count and date, for files that hold results."""
    import torch

    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": f"{device.type}, {hardware}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "random_numbers": stream(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def stream() -> str:
    """Name the random numbers that a seed gives here: a digest of some orders, initial weights' draws and normals.

    A release of torch may draw others from the same seed; then runs of one seed are not the same experiment.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.randperm(1000, generator=generator).double(),
        torch.empty(1000).uniform_(-1, 1, generator=generator).double(),
        torch.randn(1000, generator=generator).double().round(decimals=3),  # its last bits are the platform's
    ]
    return hashlib.sha256(torch.cat(draws).numpy().tobytes()).hexdigest()[:16]
