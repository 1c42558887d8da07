"""What sharing work costs, as ratios of one run.

- A bank in parts against one file, and against memory: gathering the rows of an epoch in random batches.
- Workers of a Ray cluster on this machine against one process with as many threads: the teacher's pass, in steady
  state, without the seconds until the first parts are done.
- Decoding photographs by processes, as the loader does, against threads, and by one process.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.performance.material import CPU, WIDTHS, Scale, median, round_robin, threads
from kvbench.core.bank import Parts
from kvbench.data.loader import in_batches
from kvbench.data.photos import PhotoImages
from kvbench.features import extract, store
from kvbench.harness.engine import HERE, LOCAL, run
from kvbench.harness.options import OPTIONS
from kvbench.harness.projects import experiment
from kvbench.harness.setup import Settings, fill_banks
from kvbench.utils.progress import Progress
from kvbench.utils.shares import Share

PHOTO = (500, 375)  # pixels of ImageNet's average photograph
GRAIN, QUALITY = 3, 90  # of noise, in pixels, and of the file: then it has ImageNet's average size, 110 kB


def sharing(scale: Scale) -> dict[str, Any]:
    """Gather rows, decode photographs and pass images in ways that take turns; returns the seconds of each."""
    with tempfile.TemporaryDirectory() as name:
        result: dict[str, Any] = {"gather": gathering(Path(name), scale.gathered, scale.rounds)}
    with tempfile.TemporaryDirectory() as name:
        result["decode"] = decoding(Path(name), scale.photos, scale.rounds)
    result["workers"] = passes(*scale.shared, min(3, scale.rounds))
    return result


def gathering(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """An epoch's rows in batches of 64, drawn from memory, from one mapped file, and from mapped parts."""
    memory = {f"tap{i}": torch.rand(rows, width) for i, width in enumerate(WIDTHS)}
    save_file(memory, folder / "whole.safetensors")
    parts = []
    for first in range(0, rows, store.ROWS):
        parts.append(folder / f"part-{first}.safetensors")
        save_file({name: column[first : first + store.ROWS].clone() for name, column in memory.items()}, parts[-1])
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    order = [drawn[first : first + 64] for first in range(0, rows, 64)]

    def mapped(path: Path) -> dict[str, torch.Tensor]:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in memory}

    def epoch(columns: list[torch.Tensor]) -> None:
        for batch in order:
            for column in columns:
                column[batch]

    whole, several = mapped(folder / "whole.safetensors"), [mapped(path) for path in parts]
    acts = {
        "memory": functools.partial(epoch, [*memory.values()]),
        "one file": functools.partial(epoch, [*whole.values()]),
        "parts": functools.partial(epoch, [Parts([one[tap] for one in several], tap) for tap in memory]),
    }
    before = anonymous()
    with threads(1):
        seconds = round_robin(acts, rounds)
    return {
        "seconds": seconds,
        "parts": len(parts),
        "batches": len(order),
        "bytes": sum(column.nbytes for column in memory.values()),
        "anonymous": anonymous() - before,
    }


def anonymous() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@contextmanager
def project(rows: int) -> Iterator[None]:
    """A folder to work in, where parts have so many rows, also in workers, which read its conftest.py."""
    before, sizes = Path.cwd(), (store.ROWS, extract.BATCH)
    with tempfile.TemporaryDirectory() as name:
        batch = min(rows, extract.BATCH)
        Path(name, "conftest.py").write_text(
            f"from kvbench.features import extract, store\nstore.ROWS, extract.BATCH = {rows}, {batch}\n"
        )
        store.ROWS, extract.BATCH = rows, batch
        os.chdir(name)
        try:
            yield
        finally:
            os.chdir(before)
            store.ROWS, extract.BATCH = sizes


class Pace:
    """Seconds a part, from the moment when some were done."""

    def __init__(self, skipped: int, part: int):
        self.skipped, self.part = skipped, part
        self._times: dict[float, float] = {}  # parts done -> when

    def __call__(self, progress: Progress) -> None:
        self._times[progress.done / self.part] = time.monotonic()

    @property
    def seconds(self) -> float:
        done = [parts for parts in self._times if parts >= self.skipped]
        return (self._times[done[-1]] - self._times[done[0]]) / (done[-1] - done[0])


def passes(rows: int, count: int, rounds: int) -> dict[str, Any] | None:
    """Seconds of each of ``count`` parts of ``rows`` generated images, by the number of workers; None without Ray."""
    if find_spec("ray") is None:
        return None
    import ray

    for name, value in LOCAL.items():
        os.environ.setdefault(name, value)
    number = iter(range(10**6))

    def texts() -> dict[str, str]:
        sizes = f"train_count={rows * (count - 1)} val_count={rows}"
        return {"workload": "fractals", "device": "cpu", "cache": f"cache-{next(number)}", "set": sizes}

    def alone(workers: int) -> float:
        given = texts()
        values: dict[str, Any] = {row.name: row.parse(given.get(row.name, row.default)) for row in OPTIONS}
        stores = Settings.of(values, experiment(values, []).images).stores()[0]
        pace = Pace(workers, rows)
        with threads(workers):
            fill_banks([{"train": stores["train"]}], Share(), CPU, pace)
        return pace.seconds

    def on_ray(workers: int) -> float:
        ray.init(num_cpus=workers, log_to_driver=False, logging_level="ERROR", **HERE)
        pace = Pace(workers, 1)
        run("extract", [texts()], on_progress=pace)
        return pace.seconds

    seconds: dict[str, dict[str, list[float]]] = {}
    with project(rows):
        for workers in (1, 2):
            each = [(on_ray(workers), alone(workers)) for _ in range(rounds)]
            seconds[str(workers)] = {"ray": [one for one, _ in each], "alone": [one for _, one in each]}
    return {"rows": rows, "parts": count, "seconds": seconds}


def decoding(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Photographs, decoded and cropped to 224 pixels by two at once, and by one."""
    noise = torch.randint(256, (PHOTO[1] // GRAIN, PHOTO[0] // GRAIN, 3), dtype=torch.uint8).numpy()
    for number in range(count):
        photo = Image.fromarray(noise).rotate(number).resize(PHOTO, Image.Resampling.BICUBIC)
        photo.save(folder / f"{number}.jpg", quality=QUALITY)
    images = PhotoImages([(str(folder / f"{k}.jpg"), 0) for k in range(count)], ("one",), 224, folder)
    batches = [list(range(first, min(first + 32, count))) for first in range(0, count, 32)]

    def by_threads() -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(images.decode, batches):
                pass

    def by_processes() -> None:
        for _ in in_batches(images.decode, range(count), 32, workers=2):
            pass

    def by_one() -> None:
        for batch in batches:
            images.decode(batch)

    with threads(1):
        seconds = round_robin({"threads": by_threads, "processes": by_processes, "one": by_one}, rounds)
    return {"seconds": seconds, "photos": count, "bytes": median([path.stat().st_size for path in folder.iterdir()])}
