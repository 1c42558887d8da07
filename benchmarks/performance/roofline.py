"""What share of the processor's own speed a training step reaches, and seeds that are trained together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.material import (
    CLASSES,
    Scale,
    Seconds,
    median,
    once,
    round_robin,
    synthetic,
    threads,
)
from kvbench.core.losses import distillation_loss
from kvbench.core.run import Run
from kvbench.core.trainer import Training

PRODUCTS = {
    f"64x512 @ 512x{CLASSES}": (64, 512, CLASSES),
    f"{CLASSES}x64 @ 64x512": (CLASSES, 64, 512),
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
    """Measure products, copies and Model3's step in turn, on one thread; returns seconds, FLOPs and bytes."""
    bank = synthetic(scale.rows)
    run = Run(once("Model3"), bank, bank, 0)
    flops, moved = step_flops(run), step_bytes(run)
    run.epoch()
    side = scale.matrix
    numbers = moved // OPTIMISER_TRAFFIC // FLOAT * 2  # a copy of as much as p, g, m and v hold
    far = max(1 << 16, scale.matrix**2 * 16)  # 256 MiB at the full scale
    acts: dict[str, Callable[[], object]] = {
        "product": _product(side, side, side, 1),
        **{name: _product(*sizes, REPEATS) for name, sizes in PRODUCTS.items()},
        "copy near": _copy(numbers, REPEATS),
        "copy far": _copy(far, 1),
        "step": run.epoch,
    }
    with threads(1):
        seconds = round_robin(acts, scale.rounds)
    steps = -(-scale.rows // 64)
    per = {"step": steps, "copy near": REPEATS, **dict.fromkeys(PRODUCTS, REPEATS)}
    work = {
        "product": 2 * side**3,
        **{name: 2 * m * k * n for name, (m, k, n) in PRODUCTS.items()},
        "copy near": 2 * numbers * FLOAT,
        "copy far": 2 * far * FLOAT,
        "step": flops,
    }
    speeds = {name: work[name] * per.get(name, 1) / median(values) for name, values in seconds.items()}
    least = limits(flops, moved, speeds["product"], speeds["copy near"])
    return {
        "seconds": {name: [s / per.get(name, 1) for s in values] for name, values in seconds.items()},
        "speeds": speeds,  # FLOP/s, bytes/s
        "side": side,
        "bytes": {"copy near": numbers * FLOAT, "copy far": far * FLOAT, "optimiser": moved},
        "flops": {"step": flops},
        "limits": least,
        "share": {name: value / (median(seconds["step"]) / steps) for name, value in least.items()},
        "threads": torch.get_num_threads(),
    }


PHASES = ("gather", "forward", "backward", "optimiser")
TOGETHER = 10  # seeds


def phases(run: Run, steps: int) -> dict[str, Seconds]:
    """Seconds of the phases of ``steps`` steps of a run, after two that are not timed, on one thread."""
    seconds: dict[str, Seconds] = {name: [] for name in PHASES}
    order = torch.split(torch.randperm(len(run.train)), run.configuration.recipe.batch_size)
    with threads(1):
        for n in range(steps + 2):
            marks = [time.perf_counter()]
            xs, teacher_logits, _ = run.train.batch(order[n % len(order)])
            marks.append(time.perf_counter())
            loss = distillation_loss(run.module(xs), teacher_logits)
            marks.append(time.perf_counter())
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            marks.append(time.perf_counter())
            run.optimizer.step()
            marks.append(time.perf_counter())
            if n >= 2:
                for name, first, last in zip(PHASES, marks, marks[1:], strict=False):
                    seconds[name].append(last - first)
    return seconds


def step_phases(scale: Scale) -> dict[str, dict[str, float]]:
    """Median seconds of every phase of a step, by student, on one thread."""
    bank = synthetic(scale.rows)
    return {
        name: {k: median(v) for k, v in phases(Run(once(name), bank, bank, 0), 8 * scale.rounds).items()}
        for name in scale.students
    }


def seeds_together(scale: Scale) -> dict[str, Any]:
    """An epoch of ten seeds trained together, and of ten lone runs one after another.

    Lone runs are measured on one thread, as a `Training` of one seed does it, and on all, as a plain loop would.
    """
    bank = synthetic(scale.rows)
    sizes = {"seeds": TOGETHER, "rows": scale.rows, "steps": -(-scale.rows // 64)}
    result: dict[str, Any] = {**sizes, "threads": torch.get_num_threads(), "students": {}}
    for name in [n for n in ("Model3", "Model7") if n in scale.students]:
        together = Training(once(name), bank, bank, range(TOGETHER))
        alone = [Training(once(name), bank, bank, [seed]) for seed in range(TOGETHER)]
        plain = [Run(once(name), bank, bank, seed) for seed in range(TOGETHER)]

        def one_after_another(runs: Sequence[Training | Run]) -> None:
            for run in runs:
                run.epoch()

        acts: dict[str, Callable[[], object]] = {
            "together": together.epoch,
            "lone": partial(one_after_another, alone),
            "lone, all threads": partial(one_after_another, plain),
        }
        result["students"][name] = round_robin(acts, scale.rounds)
    return result
