"""Images a second through the teacher, beside what the device multiplies, in each precision, on whatever there is.

Images are decoded and in memory; what is timed is their way to the device and the pass, not the way back or the files.
Alone: ``python -m benchmarks.performance --parts extraction``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.contest import teacher_pass
from benchmarks.performance.material import CPU, TAPS, Scale, fractals, median, round_robin, teacher
from kvbench.core.numerics import accelerator, default_numerics
from kvbench.core.recipe import PRECISIONS
from kvbench.features.extract import BATCH, passing
from kvbench.features.spec import BankSettings
from kvbench.features.teacher import shipped
from kvbench.utils.environment import hardware

REPEATS = 32  # batches, or products, that an accelerator is timed for at once


def extraction(scale: Scale) -> dict[str, Any]:
    """Seconds of an image, and of a product of matrices, in each precision; FLOPs and images a second."""
    device = accelerator() or CPU
    repeats = 1 if device == CPU else REPEATS
    precisions = PRECISIONS[:2] if device == CPU else PRECISIONS  # a product in float16 takes a minute on a CPU
    images = fractals(BATCH if scale.name == "full" else scale.chunk, scale.pixels)
    acts: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for precision in precisions:
            settings = BankSettings(images, shipped("fractals"), TAPS, precision=precision)
            passed = stack.enter_context(passing(settings, device))
            matrix = torch.randn(scale.matrix, scale.matrix).to(device, settings.dtype)
            acts[f"{precision} pass"] = repeated(
                partial(_logits, passed, images.pixels, images.labels), repeats, device
            )
            acts[f"{precision} product"] = repeated(partial(torch.mm, matrix, matrix), repeats, device)
        seconds = round_robin(acts, scale.rounds)
    with FlopCounterMode(display=False) as counter:
        teacher_pass(teacher(), images.pixels[:1])
    flops = counter.get_total_flops()
    rates = {one: repeats * len(images) / median(seconds[f"{one} pass"]) for one in precisions}
    speeds = {one: repeats * 2 * scale.matrix**3 / median(seconds[f"{one} product"]) for one in precisions}
    return {
        "hardware": hardware(device),
        "pixels": scale.pixels,
        "side": scale.matrix,
        "flops": flops,  # of an image
        "ms": {one: [1e3 * s / repeats / len(images) for s in seconds[f"{one} pass"]] for one in precisions},
        "rates": rates,  # images a second
        "speeds": speeds,  # of products, FLOP a second
        "shares": {one: rates[one] * flops / speeds[one] for one in precisions},
    }


def _logits(passed: Callable[[Tensor, Tensor], dict[str, Tensor]], pixels: Tensor, labels: Tensor) -> Tensor:
    return passed(pixels, labels)["logits"]


def repeated(act: Callable[[], Tensor], repeats: int, device: torch.device) -> Callable[[], None]:
    """``act`` a number of times, until the device has done all."""

    @default_numerics()
    @torch.no_grad()
    def acted() -> None:
        for _ in range(repeats):
            act()
        torch.get_device_module(device).synchronize()

    return acted
