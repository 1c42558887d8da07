"""What a student costs: parameters, and FLOPs of a sample's forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from kvbench.core.bank import FeatureBank
from kvbench.core.numerics import default_numerics, random_state_kept
from kvbench.core.student import Student


@dataclass(frozen=True)
class Cost:
    """Parameters, those of them that are trained, and FLOPs of one sample's forward pass (2 a multiply-add).

    None is what cannot be counted.
    """

    parameters: int | None
    trainable: int | None
    flops_per_sample: int | None


def cost(row: Student, widths: Sequence[int], classes: int, bank: FeatureBank | None = None) -> Cost:
    """Count the cost of a student, in evaluation mode.

    On the meta device, where nothing is allocated or computed; where a student needs numbers to be made or called, on
    the CPU, or where the bank lies. Never raises: what only describes a training must not end it. ``widths`` and
    ``bank`` are of the taps that it reads.
    """
    with random_state_kept(torch.device("cpu")), default_numerics():
        counted = _cost(row, widths, classes, bank, "meta")
        if counted.flops_per_sample is None:
            real = _cost(row, widths, classes, bank, "cpu" if bank is None else str(bank.logits.device))
            counted = real if real.parameters is not None else counted
        return counted


def _cost(row: Student, widths: Sequence[int], classes: int, bank: FeatureBank | None, device: str) -> Cost:
    sizes: list[tuple[int, bool]] = []
    try:
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            module = row.build(widths, classes, bank).eval()
            before = counter.get_total_flops()  # of what making it computes
            try:
                module([torch.zeros(1, d) for d in widths])
            finally:
                sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
            flops = counter.get_total_flops() - before
    except Exception:
        if not sizes:
            return Cost(None, None, None)
        flops = None
    return Cost(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), flops)
