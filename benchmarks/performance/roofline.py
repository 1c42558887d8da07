"""The machine's own speeds, and what share of them extraction and a training step reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.clock import median, round_robin, threads
from benchmarks.performance.loops import teacher_pass
from benchmarks.performance.material import WIDTHS, fractals, once, passed, synthetic, teacher
from benchmarks.performance.scale import Scale
from kvbench.core.trainer import Run, distillation_loss

PRODUCTS = {
    "64x512 @ 512x1000": (64, 512, 1000),
    "1000x64 @ 64x512": (1000, 64, 512),
    "64x256 @ 256x512": (64, 256, 512),
}
OPTIMISER_TRAFFIC = 7  # p, g, m, v read; p, m, v written
FLOAT = 4  # bytes
REPEATS = 20  # small acts are timed this many at once


def step_flops(run: Run) -> int:
    """FLOPs of the matrix products of one training step's forward and backward (2 a multiply-add)."""
    xs, teacher_logits, _ = run.train.batch(slice(0, run.configuration.recipe.batch_size))
    with FlopCounterMode(display=False) as counter:
        distillation_loss(run.module(xs), teacher_logits).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def step_bytes(run: Run) -> int:
    """Bytes that Adam cannot but move at a step."""
    return sum(p.numel() for p in run.module.parameters() if p.requires_grad) * OPTIMISER_TRAFFIC * FLOAT


def limits(flops: float, moved: float, flops_per_second: float, bytes_per_second: float) -> dict[str, float]:
    """Least seconds of a step: of its products, of its optimiser, and of both one after the other."""
    compute, memory = flops / flops_per_second, moved / bytes_per_second
    return {"compute": compute, "memory": memory, "both": compute + memory}


def _product(m: int, k: int, n: int, repeats: int) -> Callable[[], object]:
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    return multiply


def _copy(numbers: int, repeats: int) -> Callable[[], object]:
    source, target = torch.randn(numbers), torch.zeros(numbers)

    def copy() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return copy


def roofline(scale: Scale) -> dict[str, Any]:
    """Measure products, copies, Model3's step and the extraction in turn; returns seconds, FLOPs and bytes."""
    bank = synthetic(scale.rows)
    run = Run(once("Model3"), bank, bank, 0)
    flops, moved = step_flops(run), step_bytes(run)
    run.epoch()
    side = scale.matrix
    numbers = moved // OPTIMISER_TRAFFIC // FLOAT * 2  # a copy of as much as p, g, m and v hold
    far = max(1 << 16, scale.matrix**2 * 16)  # 256 MiB at the full scale
    alone: dict[str, Callable[[], object]] = {
        "product": _product(side, side, side, 1),
        **{name: _product(*sizes, REPEATS) for name, sizes in PRODUCTS.items()},
        "copy near": _copy(numbers, REPEATS),
        "copy far": _copy(far, 1),
        "step": run.epoch,
    }
    images = fractals(128 if scale.name == "full" else scale.chunk, scale.pixels)
    module = teacher()
    whole: dict[str, Callable[[], object]] = {
        "product, all threads": _product(side, side, side, 1),
        "extraction": lambda: passed(images),
        "plain pass": lambda: [teacher_pass(module, part) for part in torch.split(images.pixels, scale.batch)],
    }

    def on_one(act: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            with threads(1):
                act()

        return timed

    seconds = round_robin({**{k: on_one(v) for k, v in alone.items()}, **whole}, scale.rounds)
    with FlopCounterMode(display=False) as counter:
        teacher_pass(module, images.pixels[:1])
    steps = -(-scale.rows // 64)
    per = {"step": steps, "copy near": REPEATS, **dict.fromkeys(PRODUCTS, REPEATS)}
    work = {
        "product": 2 * side**3,
        "product, all threads": 2 * side**3,
        **{name: 2 * m * k * n for name, (m, k, n) in PRODUCTS.items()},
        "copy near": 2 * numbers * FLOAT,
        "copy far": 2 * far * FLOAT,
        "step": flops,
        "extraction": counter.get_total_flops() * len(images),
        "plain pass": counter.get_total_flops() * len(images),
    }
    speeds = {name: work[name] * per.get(name, 1) / median(values) for name, values in seconds.items()}
    least = limits(flops, moved, speeds["product"], speeds["copy near"])
    return {
        "seconds": {name: [s / per.get(name, 1) for s in values] for name, values in seconds.items()},
        "speeds": speeds,  # FLOP/s, bytes/s
        "side": side,
        "bytes": {"copy near": numbers * FLOAT, "copy far": far * FLOAT, "optimiser": moved},
        "flops": {"step": flops, "image": counter.get_total_flops()},
        "limits": least,
        "share": {name: value / (median(seconds["step"]) / steps) for name, value in least.items()},
        "extraction share": speeds["extraction"] / speeds["product, all threads"],
        "widths": WIDTHS,
        "threads": torch.get_num_threads(),
    }
