"""What all measurements share: their scale, their clock, images in memory, the teacher, synthetic banks."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.interleave import interleave
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.data.fractals import FractalImages
from kvbench.features.architecture import SOURCES_TAPS
from kvbench.features.teacher import shipped
from kvbench.harness.setup import Settings
from kvbench.studies.kv_memory import STUDY
from kvbench.workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class Scale:
    """Sizes of all measurements.

    Args:
        pixels: side of an image.
        train: images to train on, N; a multiple of ``chunk``.
        chunk: images of one piece of the extraction.
        epochs, batch: of every configuration.
        students: trained with both recipes.
        rounds: round robins of a comparison.
        rows: rows of a synthetic bank whose epoch is timed.
        cold: options of the cold ``pytest benchmarks/``.
        shrink: images and epochs of the cold run's workload (train, val, epochs); None: as they are.
        matrix: side of the large matrix product.
        gathered: rows of a bank that are gathered from parts.
        photos: photographs that are decoded.
        shared: images of a part, and parts, of a pass that workers share.
        paths: images of a finished bank that is opened.
        large: bytes of a large one.
    """

    name: str
    pixels: int = 224
    train: int = 2048
    chunk: int = 1024
    epochs: int = 10
    batch: int = 64
    students: tuple[str, ...] = tuple(row.name for row in STUDY.students)
    rounds: int = 5
    rows: int = 1024
    cold: tuple[str, ...] = ("--kvbench-seeds", "5")
    shrink: tuple[int, int, int] | None = None
    matrix: int = 2048
    gathered: int = 131_072
    photos: int = 1024
    shared: tuple[int, int] = (2048, 8)
    paths: int = 1_281_167  # ImageNet's
    large: float = 100e9


FULL = Scale("full")
QUICK = Scale(
    "quick",
    pixels=32,
    train=128,
    chunk=64,
    epochs=2,
    students=("Model1", "Model3"),
    rounds=2,
    rows=128,
    cold=("--kvbench-seeds", "1", "-k", "Model1"),
    shrink=(128, 64, 2),
    matrix=256,
    gathered=8192,
    photos=64,
    shared=(64, 4),
    paths=5000,
    large=50e6,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK)}


Seconds = list[float]


def stopwatch(act: Callable[[], object]) -> float:
    """Seconds that ``act`` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def round_robin(acts: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Time every act once a round, after one round that is not timed."""
    for act in acts.values():
        act()
    seconds: dict[str, Seconds] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            seconds[name].append(stopwatch(act))
    return seconds


def median(seconds: Sequence[float]) -> float:
    """The middle of all measurements."""
    return float(statistics.median(seconds))


def ratios(seconds: Sequence[float], against: Sequence[float]) -> list[float]:
    """Of what took turns, in each round; sorted."""
    return sorted(one / other for one, other in zip(seconds, against, strict=True))


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of fewer than four measurements, the least and the largest."""
    if len(seconds) < 4:
        return min(seconds), max(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, high


def scaled(seconds: Sequence[float], steps: int) -> float:
    """Seconds of ``steps`` steps, from a sample of single steps: their median times ``steps``."""
    return median(seconds) * steps


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


TAPS = SOURCES_TAPS
WIDTHS = (256, 512, 512)
CLASSES = 200
CPU = torch.device("cpu")


def row_bytes(classes: int) -> int:
    """Of a row of a bank in float32: the taps, the logits, and the label."""
    return 4 * (sum(WIDTHS) + classes) + 8


@dataclass(frozen=True)
class InMemory:
    """Rendered images (N, 3, size, size) and labels (N,), as `kvbench.data.base.Images`: nothing is decoded."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.pixels[indices], self.labels[indices]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image and its label, as map-style data sets give them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.pixels[index], int(self.labels[index])

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"images": "in memory", "count": len(self), "size": self.pixels.shape[-1]}

    @property
    def mtime_digest(self) -> str:
        return ""

    def part(self, first: int, count: int) -> InMemory:
        """``count`` images from ``first`` on."""
        rows = slice(first, first + count)
        return InMemory(self.pixels[rows], self.labels[rows], self.classes)


def fractals(count: int, pixels: int) -> InMemory:
    """Render ``count`` training images of the generated workload at ``pixels`` a side."""
    images = FractalImages("train", count, classes=CLASSES, size=pixels)
    parts = [images.__getitems__([*range(i, min(i + 64, count))]) for i in range(0, count, 64)]
    drawn, labels = zip(*parts, strict=True)
    return InMemory(torch.cat(drawn), torch.cat(labels), images.classes)


def teacher() -> nn.Module:
    """The ResNet18 of 200 classes that is shipped for the generated images; a copy of its own each call."""
    return shipped("fractals").module


def passed(images: InMemory, *, half: bool = False) -> FeatureBank:
    """One teacher pass as a user's run makes it: `Settings.open_banks` with an empty cache, files and all.

    ``half``: in bfloat16. The validation split, which a run needs, is one image.
    """

    def opener(_row: Workload, split: str, _root: Path | None, _count: int | None) -> InMemory:
        return images if split == "train" else images.part(0, 1)

    row = replace(WORKLOADS["fractals"], opener=opener)
    with tempfile.TemporaryDirectory() as cache:
        precision = "bfloat16" if half else "float32"
        bank = Settings(row, CPU, Path(cache), precision=precision).open_banks().train
        return FeatureBank(tuple(tap.clone() for tap in bank.taps), bank.logits.clone(), bank.labels.clone())


def table(scale: Scale) -> list[Configuration]:
    """Every student with both recipes."""
    changes: dict[str, Any] = {"epochs": scale.epochs, "batch_size": scale.batch, "lr": 1e-3}
    rows = STUDY.configurations([replace(recipe, **changes) for recipe in STUDY.recipes])
    return [row for row in rows if row.student.name in scale.students]


def once(name: str, *, epochs: int = 1000, batch: int = 64) -> Configuration:
    """A student with a constant lr and more epochs than anybody times."""
    return Configuration(STUDY.student(name), replace(Recipe(lr=1e-3), epochs=epochs, batch_size=batch))


class Head(nn.Module):
    """A student that is called with all taps and reads its own."""

    def __init__(self, row: Student, classes: int):
        super().__init__()
        self.taps = row.taps
        self.module = row.build([WIDTHS[tap] for tap in row.taps], classes)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.module([xs[tap] for tap in self.taps])
        return out


def head(row: Student, classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """A student as a `Run` with this seed starts with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(row, classes)


def synthetic(rows: int, classes: int = CLASSES, seed: int = 0) -> FeatureBank:
    """A bank of drawn numbers: features as a ReLU leaves them, logits normal."""
    draw = torch.Generator().manual_seed(seed)
    taps = tuple(torch.randn(rows, width, generator=draw).relu() for width in WIDTHS)
    labels = torch.randint(classes, (rows,), generator=draw)
    return FeatureBank(taps, 3 * torch.randn(rows, classes, generator=draw), labels)


def joined(banks: list[FeatureBank]) -> FeatureBank:
    """The rows of several banks, one after another."""
    taps = tuple(torch.cat(parts) for parts in zip(*(bank.taps for bank in banks), strict=True))
    return FeatureBank(taps, torch.cat([b.logits for b in banks]), torch.cat([b.labels for b in banks]))


def to_the_end(run: Run) -> Iterator[None]:
    """Train every epoch that is left, pausing as `Run.chunks` does."""
    while not run.done:
        yield from run.chunks()


def side_by_side(runs: list[Run]) -> None:
    """Train runs to their ends, as many at once as torch has threads, as processes of ``pytest -n`` would."""
    interleave([to_the_end(run) for run in runs], torch.get_num_threads())
