"""A bank of ImageNet's size in a file: does an epoch stay in bounded memory, at an in-memory bank's pace?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.performance.clock import Seconds, round_robin, stopwatch, threads
from benchmarks.performance.material import CLASSES, WIDTHS, once, synthetic
from benchmarks.performance.scale import Scale
from kvbench.core.bank import FeatureBank
from kvbench.core.trainer import PORTION, Run

BLOCK = 4096  # rows drawn once, and written again and again


def write(path: Path, rows: int) -> None:
    """Write a bank of ``rows`` rows in fp16 as a safetensors file, block by block."""
    block = synthetic(BLOCK)
    columns = {**{f"tap{i}": tap.half() for i, tap in enumerate(block.taps)}, "logits": block.logits.half()}
    header: dict[str, Any] = {}
    at = 0
    for name, column in columns.items():
        size = rows * column.shape[1] * 2
        header[name] = {"dtype": "F16", "shape": [rows, column.shape[1]], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for column in columns.values():
            for first in range(0, rows, BLOCK):
                file.write(column[: min(BLOCK, rows - first)].numpy().tobytes())


def mapped(path: Path, rows: int) -> FeatureBank:
    """Open the file, memory-mapped; the labels, which no training reads, are drawn."""
    with safe_open(path, "pt") as file:
        taps = tuple(file.get_tensor(f"tap{i}") for i in range(len(WIDTHS)))
        return FeatureBank(taps, file.get_tensor("logits"), torch.randint(CLASSES, (rows,)))


def resident() -> dict[str, int]:
    """This process's resident memory in bytes: anonymous, and of files. Empty where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    wanted = ("RssAnon", "RssFile")
    return {k: 1024 * int(v.split()[0]) for k, _, v in (line.partition(":") for line in lines) if k in wanted}


def large(scale: Scale) -> dict[str, Any]:
    """Train portions of an epoch from a file and from memory in turn; returns seconds a step, and memory.

    ``anonymous``: growth of resident anonymous memory while training from the file. ``gather``: seconds a batch.
    """
    small = synthetic(scale.side_by_side)
    memory = FeatureBank(tuple(t.half() for t in small.taps), small.logits.half(), small.labels)
    del small
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        wrote = stopwatch(lambda: write(path, scale.large))
        file = mapped(path, scale.large)
        steps: dict[str, dict[str, Seconds]] = {}
        peaks: dict[str, int] = {}
        with threads(1):
            for name in ("Model1", "Model3"):
                steps[name], peaks[name] = _portions(name, file, memory, scale.portions)
            gather = round_robin(_gathers(file, memory), 4 * scale.rounds)
        return {
            "rows": scale.large,
            "bytes": path.stat().st_size,
            "beside": scale.side_by_side,
            "wrote": wrote,
            "steps": steps,
            "sample": scale.portions * PORTION,
            "anonymous": peaks,
            "resident": resident(),
            "gather": gather,
        }


def _portions(name: str, file: FeatureBank, memory: FeatureBank, count: int) -> tuple[dict[str, Seconds], int]:
    before = resident().get("RssAnon", 0)
    runs: dict[str, Iterator[None]] = {
        "file": Run(once(name), file, file, 0).portions(),
        "memory": Run(once(name), memory, memory, 0).portions(),
    }
    for portions in runs.values():
        next(portions)
    peak = 0
    seconds: dict[str, Seconds] = {kind: [] for kind in runs}
    for _ in range(count):
        for kind, portions in runs.items():
            seconds[kind].append(stopwatch(partial(next, portions)) / PORTION)
            peak = max(peak, resident().get("RssAnon", 0) - before)
    return seconds, peak


def _gathers(file: FeatureBank, memory: FeatureBank) -> dict[str, Callable[[], object]]:
    def gather(bank: FeatureBank, *, ordered: bool) -> None:
        rows = torch.randint(len(bank), (64,))
        bank.batch(rows.sort().values if ordered else rows)

    return {
        f"{kind}, {how}": partial(gather, bank, ordered=ordered)
        for kind, bank in (("file", file), ("memory", memory))
        for how, ordered in (("as drawn", False), ("sorted", True))
    }
