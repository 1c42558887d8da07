"""How long it takes to open the settings of a finished bank of as many photographs as ImageNet has.

    python -m benchmarks.performance.opening

Nothing is decoded: the folder is listed, every file is asked for its facts (`os.stat`), and digests name the bank. The
paths are made up: 1,000 classes that are links to one folder of empty files, each path a real call of the system.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import typer

from kvbench.data import layouts, photos  # noqa: F401 (imported before the clock starts)
from kvbench.workloads import WORKLOADS

IMAGENET = 1_281_167  # training images
CLASSES = 1000


def make_up(root: Path, images: int) -> Path:
    """A folder ``train`` with about this many paths."""
    (root / "files").mkdir(parents=True)
    for i in range(-(-images // CLASSES)):
        (root / "files" / f"n{i:08d}.JPEG").touch()
    (root / "train").mkdir()
    for k in range(CLASSES):
        (root / "train" / f"n{k:08d}").symlink_to(root / "files")
    return root


def measure(images: int) -> dict[str, float]:
    """Processor seconds of each step, which other work on the machine does not lengthen much."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object]) -> None:
        start = time.process_time()
        work()
        seconds[step] = time.process_time() - start

    with tempfile.TemporaryDirectory() as folder:
        root = make_up(Path(folder), images)
        start = time.process_time()
        opened = WORKLOADS["folder"].images("train", root, None)
        seconds["listing"] = time.process_time() - start
        timed("fingerprint", lambda: (opened.fingerprint, opened.mtime_digest))
        timed("fingerprint again", lambda: (opened.fingerprint, opened.mtime_digest))
        paths = [path for path, _ in opened.samples]  # type: ignore[attr-defined]
        timed("stat calls alone", lambda: [os.stat(path) for path in paths])  # noqa: PTH116
        seconds["images"] = len(opened)
    return seconds


def main(images: int = IMAGENET) -> None:
    """Print the seconds of each step."""
    for step, value in measure(images).items():
        typer.echo(f"{step}: {value:,.0f}" if step == "images" else f"{step}: {value:.2f} s")


if __name__ == "__main__":
    typer.run(main)
