"""A training step taken apart, and alone against side by side."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.performance.clock import Seconds, median, round_robin, threads
from benchmarks.performance.material import once, side_by_side, synthetic
from benchmarks.performance.scale import Scale
from kvbench.core.trainer import Run, Training, distillation_loss

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
    made: dict[str, Any] = {**sizes, "threads": torch.get_num_threads(), "students": {}}
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
        made["students"][name] = round_robin(acts, scale.rounds)
    return made


def thread_use(scale: Scale) -> dict[str, Any]:
    """Seconds a step of Model3: on one thread, on two, and two runs side by side on one each."""
    bank = synthetic(scale.rows)
    steps = -(-scale.rows // 64)
    runs = [Run(once("Model3"), bank, bank, seed) for seed in range(2)]
    pair = Training(once("Model3"), bank, bank, range(2))

    def on(count: int, run: Run) -> None:
        with threads(count):
            run.epoch()

    def side_by_side() -> None:
        with threads(2):
            pair.epoch()

    acts: dict[str, Callable[[], object]] = {
        "one thread": lambda: on(1, runs[0]),
        "two threads": lambda: on(2, runs[1]),
        "two side by side": side_by_side,
    }
    seconds = round_robin(acts, scale.rounds)
    count = {"one thread": steps, "two threads": steps, "two side by side": 2 * steps}
    return {name: [s / count[name] for s in values] for name, values in seconds.items()}


def pair_rates(scale: Scale) -> dict[str, Seconds]:
    """Seconds a step of every student, two runs side by side: what a machine with two threads gets through."""
    bank = synthetic(scale.rows)
    steps = 2 * -(-scale.rows // 64)

    def epoch(name: str, seeds: Iterator[int]) -> None:
        side_by_side([Run(once(name, epochs=1), bank, bank, next(seeds)) for _ in range(2)])

    acts = {name: partial(epoch, name, itertools.count()) for name in scale.students}
    return {name: [s / steps for s in seconds] for name, seconds in round_robin(acts, scale.rounds).items()}
