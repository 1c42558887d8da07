"""How much is measured: the full scale, and a quick one that only shows that everything runs."""

from __future__ import annotations

from dataclasses import dataclass

from kvbench.core.models import STUDENTS


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
        large: rows of the bank in a file; ``side_by_side``: of the bank in memory that it is compared with.
        portions: portions of 32 batches that are trained on each of these two.
        counts: (train, val) images whose bank is made in both precisions; None: the workload's own.
        cold: options of the cold ``pytest benchmarks/``.
        shrink: images and epochs of the cold run's workload (train, val, epochs); None: as they are.
        matrix: side of the large matrix product.
        photos: JPEG files that are decoded.
    """

    name: str
    pixels: int = 224
    train: int = 2048
    chunk: int = 1024
    epochs: int = 10
    batch: int = 64
    students: tuple[str, ...] = tuple(STUDENTS)
    rounds: int = 5
    rows: int = 1024
    large: int = 1_281_167
    side_by_side: int = 65_536
    portions: int = 6
    counts: tuple[int, int] | None = None
    cold: tuple[str, ...] = ("--kvbench-seeds", "5")
    shrink: tuple[int, int, int] | None = None
    matrix: int = 2048
    photos: int = 128


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
    large=6_000,
    side_by_side=6_000,
    portions=1,
    counts=(128, 64),
    cold=("--kvbench-seeds", "1", "-k", "Model1"),
    shrink=(128, 64, 2),
    matrix=256,
    photos=4,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK)}
