"""Where numbers come from: versions, hardware, date."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What all records of a session share: for the head of a report, and for the provenance of a reference.
FACTS = (
    "train_count", "val_count", "notes", "teacher_val_accuracy", "versions", "hardware", "threads", "numerics",
    "random_numbers", "date",
)  # fmt: skip
SWITCHES = ("ATEN_", "CUBLAS_", "DNNL_", "MKL_", "NVIDIA_TF32", "ONEDNN_")  # environment variables of libraries
PACKAGES = ("kvbench", "torch", "torchvision", "numpy", "pillow", "pytest-benchmark")
OF_FEATURES = ("torch", "torchvision", "numpy", "pillow")  # packages that decide the bits of a bank


def processors() -> int:
    """How many processors this process may use: in a container often fewer than the machine has.

    ``OMP_NUM_THREADS``, which torch's threads follow and Ray sets to a worker's share, makes them fewer.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(here, int(asked)) if asked.isdecimal() and int(asked) else here


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware class, thread count and date, for files that hold results."""
    import torch

    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "numerics": numerics(),
        "random_numbers": rng_fingerprint(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def built_with(device: torch.device) -> dict[str, Any]:
    """What decides the bits of a bank beside its settings: `environment`'s versions, hardware and numerics, in part."""
    versions = {name: version(name) for name in OF_FEATURES}
    return {"versions": versions, "hardware": hardware(device), "numerics": numerics()}


def hardware(device: torch.device) -> str:
    """The device's class: its type, its name or the processor's architecture, and how many processors there are."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}, {name}, {os.cpu_count()} processors"


def numerics() -> dict[str, str]:
    """What of this machine and of torch's switches decides the last digits of numbers, beyond the hardware class."""
    import torch

    found = {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": "on" if torch.backends.mkldnn.is_available() else "off",  # type: ignore[no-untyped-call]
        "deterministic algorithms": "on" if torch.are_deterministic_algorithms_enabled() else "off",
        "float32 products": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found | {name: value for name, value in os.environ.items() if name.startswith(SWITCHES)}


def code(folders: Iterable[Path]) -> str:
    """Name the source code at work.

    A digest of kvbench, of every ``.py`` in and below ``folders``, and of what is loaded from outside the installed
    packages: names and contents, as packages may write modules to folders of random names and load them.
    """
    files = {path for folder in (Path(__file__).parents[1], *folders) for path in _sources(folder)}
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "")
        elsewhere = {"site-packages", "dist-packages"} & {*path.parts}  # of an environment below this one
        if path.is_file() and not elsewhere and not any(path.is_relative_to(folder) for folder in installed):
            files.add(path.resolve())
    contents = sorted(f"{path.name} {_content(path)}" for path in files)
    return hashlib.sha256("\n".join(contents).encode(errors="surrogateescape")).hexdigest()[:16]


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # such as a broken link
        return "cannot be read"


def _sources(folder: Path) -> Iterator[Path]:
    """Every ``.py`` in and below a folder, but for hidden ones, such as editors' locks, and virtual environments."""
    for here, below, names in os.walk(folder):
        below[:] = [name for name in below if name[0] != "." and not Path(here, name, "pyvenv.cfg").exists()]
        yield from (Path(here, name).resolve() for name in names if name.endswith(".py") and name[0] != ".")


def rng_fingerprint() -> str:
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
