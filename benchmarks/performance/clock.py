"""Seconds: of one call, and of several contestants in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

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


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of fewer than four measurements, the least and the largest."""
    if len(seconds) < 4:
        return min(seconds), max(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, high


def spread(seconds: Sequence[float]) -> float:
    """Distance between the quartiles as a share of the median."""
    low, high = quartiles(seconds)
    return (high - low) / median(seconds)


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
