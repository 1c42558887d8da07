"""What sharing work costs, as ratios of one run: ``python -m benchmarks.workers``.

- A bank in parts against one file: gathering the rows of an epoch in random batches.
- Workers of a Ray cluster on this machine against one process with as many threads: the teacher's pass, in steady
  state, without the seconds until the first parts are done.
- Decoding photographs by processes, as the loader does, against threads.

Whatever is compared takes turns. ``--quick`` takes a minute and its numbers say nothing.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.performance.material import CPU, WIDTHS, median, round_robin, threads
from kvbench.core.bank import Parts
from kvbench.data.loader import in_batches
from kvbench.data.photos import PhotoImages
from kvbench.features import extract, store
from kvbench.harness.engine import LOCAL, run
from kvbench.harness.options import OPTIONS
from kvbench.harness.projects import experiment
from kvbench.harness.setup import Settings, fill_banks
from kvbench.utils.progress import Progress
from kvbench.utils.shares import Share
from kvbench.utils.text import markdown_table

PHOTO = (500, 375)  # pixels of ImageNet's average photograph
Row = list[str]


def ratio(seconds: list[float], against: list[float]) -> str:
    """The median of the ratios of each round, and their range."""
    found = sorted(one / other for one, other in zip(seconds, against, strict=True))
    return f"{median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


def parts(folder: Path, rows: int, rounds: int) -> Iterator[Row]:
    """Rows of mapped files, in batches of 64: of one file, and of parts."""
    whole = {f"tap{i}": torch.rand(rows, width) for i, width in enumerate(WIDTHS)}
    files = {"one file": [folder / "whole.safetensors"]}
    save_file(whole, files["one file"][0])
    files["parts"] = []
    for first in range(0, rows, store.ROWS):
        files["parts"].append(folder / f"part-{first}.safetensors")
        some = {name: column[first : first + store.ROWS].clone() for name, column in whole.items()}
        save_file(some, files["parts"][-1])
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    order = [drawn[first : first + 64] for first in range(0, rows, 64)]

    def mapped(path: Path) -> dict[str, torch.Tensor]:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in whole}

    def epoch(columns: list[torch.Tensor]) -> None:
        for batch in order:
            for column in columns:
                column[batch]

    acts = {}
    for name, paths in files.items():
        opened = [mapped(path) for path in paths]
        columns = [Parts([one[tap] for one in opened], tap) if len(opened) > 1 else opened[0][tap] for tap in whole]
        acts[name] = functools.partial(epoch, columns)
    seconds = round_robin(acts, rounds)
    batch = median(seconds["parts"]) / len(order) * 1000
    yield [
        f"{len(files['parts'])} parts against one file",
        ratio(*reversed(seconds.values())),
        f"{batch:.3f} ms a batch",
    ]


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


def passes(rows: int, count: int, rounds: int) -> Iterator[Row]:
    """The teacher's pass over ``count`` parts of generated images."""
    if find_spec("ray") is None:
        yield ["workers of a Ray cluster", "not measured", "Ray is not installed"]
        return
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
        ray.init(num_cpus=workers, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        pace = Pace(workers, 1)
        run("extract", [texts()], on_progress=pace)
        return pace.seconds

    with project(rows):
        for workers in (1, 2):
            seconds = [(on_ray(workers), alone(workers)) for _ in range(rounds)]
            found, plain = map(list, zip(*seconds, strict=True))
            many = "1 worker" if workers == 1 else f"{workers} workers"
            yield [f"{many} of Ray against one process, threads alike", ratio(found, plain),
                   f"{rows / median(found):.1f} images a second"]  # fmt: skip


def decoding(folder: Path, count: int, rounds: int) -> Iterator[Row]:
    """Photographs, decoded and cropped to 224 pixels by two at once."""
    noise = torch.randint(256, (PHOTO[1] // 8, PHOTO[0] // 8, 3), dtype=torch.uint8).numpy()
    for number in range(count):
        Image.fromarray(noise).rotate(number).resize(PHOTO, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    images = PhotoImages([(str(folder / f"{k}.jpg"), 0) for k in range(count)], ("one",), 224, folder)
    batches = [list(range(first, min(first + 32, count))) for first in range(0, count, 32)]

    def by_threads() -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(images.decode, batches):
                pass

    def by_processes() -> None:
        for _ in in_batches(images.decode, range(count), 32, workers=2):
            pass

    with threads(1):
        seconds = round_robin({"threads": by_threads, "processes": by_processes}, rounds)
    rate = count / median(seconds["processes"])
    yield ["2 threads against 2 processes, decoding", ratio(seconds["threads"], seconds["processes"]),
           f"{rate:.0f} images a second by processes"]  # fmt: skip


def main(
    quick: Annotated[bool, typer.Option(help="A minute, to see that it works.")] = False,
    rounds: Annotated[int, typer.Option(help="Of every comparison.")] = 5,
) -> None:
    """Print a table of ratios: seconds of the first over those of the second."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for number, (what, sizes) in enumerate(
            {parts: (8192, 2) if quick else (131_072, rounds), decoding: (64, 2) if quick else (1024, rounds)}.items()
        ):
            folder = Path(name, str(number))
            folder.mkdir()
            rows += what(folder, *sizes)
        rows += passes(*((64, 4, 1) if quick else (2048, 8, rounds)))
    sys.stdout.write(markdown_table(["", "ratio of seconds: median and range", ""], rows) + "\n")


if __name__ == "__main__":
    typer.run(main)
