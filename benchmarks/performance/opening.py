"""How long what is done already takes to open: as many photographs as ImageNet has, and their bank.

Nothing is decoded or passed. Of photographs, the folder is listed, every file is asked for its facts (`os.stat`), and
digests name the bank; the paths are made up: 1,000 classes that are links to one folder of empty files, each path a
real call of the system. Of the bank, checksums are compared at the first opening, and at the next ones size and time of
change of each part; its features are one number wide, as nothing depends on them but the bytes. A bank of 100 GB is one
of files with holes, which is opened as the second time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.performance.material import CLASSES, CPU, WIDTHS, InMemory, Scale, row_bytes, stopwatch
from kvbench.data import layouts, photos  # noqa: F401 (imported before the clock starts)
from kvbench.data.fractals import FractalImages
from kvbench.features.fill import open_bank
from kvbench.features.store import ROWS, Part, Store
from kvbench.harness.setup import Settings
from kvbench.workloads import WORKLOADS

FOLDERS = 1000  # classes of the photographs
CLASS_NAMES = FractalImages("train", 1, classes=CLASSES).classes


def make_up(root: Path, images: int) -> Path:
    """A folder ``train`` with about this many paths."""
    (root / "files").mkdir(parents=True)
    for i in range(-(-images // FOLDERS)):
        (root / "files" / f"n{i:08d}.JPEG").touch()
    (root / "train").mkdir()
    for k in range(FOLDERS):
        (root / "train" / f"n{k:08d}").symlink_to(root / "files")
    return root


def opening(scale: Scale) -> dict[str, Any]:
    """Seconds of each step, and how many paths and bytes there are."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "photos": photographs(Path(folder), scale.paths),
            "bank": bank(Path(folder), scale.paths),
            "large": [large(Path(folder) / f"large-{k}", scale.large) for k in range(min(3, scale.rounds))],
        }


def photographs(folder: Path, count: int) -> dict[str, float]:
    """Processor seconds of each step, which other work on the machine does not lengthen much."""
    root = make_up(folder, count)
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object]) -> None:
        start = time.process_time()
        work()
        seconds[step] = time.process_time() - start

    start = time.process_time()
    opened = WORKLOADS["folder"].images("train", root, None)
    seconds["listing"] = time.process_time() - start
    timed("fingerprint", lambda: (opened.fingerprint, opened.mtime_digest))
    timed("fingerprint again", lambda: (opened.fingerprint, opened.mtime_digest))
    paths = [path for path, _ in opened.samples]  # type: ignore[attr-defined]
    timed("stat calls alone", lambda: [os.stat(path) for path in paths])  # noqa: PTH116
    return {**seconds, "images": len(opened)}


def unfilled(folder: Path, rows: int) -> Store:
    """A bank of so many rows, of which no part is there."""
    images = InMemory(torch.zeros(1, 3, 64, 64).expand(rows, 3, 64, 64), torch.zeros(rows).long(), CLASS_NAMES)
    row = replace(WORKLOADS["fractals"], opener=lambda *_: images)
    return Settings(row, CPU, folder).stores()[0]["train"]


def drawn(rows: int, widths: Sequence[int]) -> dict[str, torch.Tensor]:
    """The columns of a part."""
    columns = {f"tap{i}": torch.rand(rows, width) for i, width in enumerate(widths)}
    return columns | {"logits": torch.rand(rows, CLASSES), "labels": torch.zeros(rows).long()}


def large(folder: Path, size: float) -> dict[str, Any]:
    """Seconds until a bank of about ``size`` bytes is open, whose checksums were compared before."""
    store = unfilled(folder, ROWS * max(2, round(size / row_bytes(CLASSES) / ROWS)))
    store.write(0, drawn(ROWS, WIDTHS), {"torch": "none: drawn"})
    with store.file(0).open("rb") as file:
        start = file.read(8)
        header = start + file.read(int.from_bytes(start, "little"))
    whole = store.file(0).stat().st_size
    for number in range(len(store.parts)):
        with store.file(number).open("wb") as file:  # a header, and a hole
            file.write(header)
            file.truncate(whole)
        facts = store.file(number).stat()
        store.known[number] = Part("0" * 64, "{}", facts.st_size, facts.st_mtime_ns)
    store.record()
    seconds = stopwatch(lambda: open_bank(replace(store), CPU))
    parts = len(store.parts)
    return {"seconds": seconds, "parts": parts, "bytes": whole * parts, "read ahead": read_ahead(folder)}


def read_ahead(folder: Path) -> str:
    """How much Linux reads at least where a mapped file is first looked at."""
    device = folder.stat().st_dev
    setting = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/bdi/read_ahead_kb")
    return f"{int(setting.read_text())} kB" if setting.exists() else "an unknown number of bytes"


def bank(folder: Path, rows: int) -> dict[str, float]:
    """Seconds until a bank of so many rows is open: first, and again."""
    store = unfilled(folder, rows)
    for number, part in enumerate(store.parts):
        store.write(number, drawn(len(part), [1] * len(store.settings.taps)), {"torch": "none: drawn"})
    files = [store.file(number).stat().st_size for number in range(len(store.parts))]

    def timed() -> float:
        return stopwatch(lambda: open_bank(replace(store), CPU))

    return {"first": timed(), "again": timed(), "parts": len(files), "bytes": sum(files)}
