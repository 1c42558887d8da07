"""Where numbers come from: versions, hardware, date."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What all records of a session share: for the head of a report, and for the provenance of a reference.
FACTS = ("train_count", "val_count", "teacher_val_accuracy", "versions", "hardware", "threads", "date")
PACKAGES = ("kvbench", "torch", "torchvision", "pytest-benchmark")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware class, thread count and date, for files that hold results."""
    import torch

    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": f"{device.type}, {hardware}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
