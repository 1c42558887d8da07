"""Works that take turns in threads: evenly, stopped by an error or a signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from kvbench.core.interleave import interleave


def counting(name: str, items: int, log: list[str]) -> Iterator[None]:
    for _ in range(items):
        log.append(name)
        yield


def test_one_worker_goes_round_the_works_that_are_left() -> None:
    log: list[str] = []
    interleave([counting("a", 3, log), counting("b", 1, log), counting("c", 2, log)], 1)
    assert log == ["a", "b", "c", "a", "c", "a"]


def test_three_works_share_two_workers_evenly() -> None:
    """Were each work done to its end by one worker, the third would begin when the first has ended."""
    progress = [0, 0, 0]
    furthest_apart = 0

    def work(place: int) -> Iterator[None]:
        nonlocal furthest_apart
        for _ in range(20):
            progress[place] += 1
            furthest_apart = max(furthest_apart, max(progress) - min(progress))
            time.sleep(0.002)
            yield

    interleave([work(place) for place in range(3)], 2)
    assert progress == [20, 20, 20]
    assert furthest_apart < 15


def test_no_work_is_done_at_once() -> None:
    interleave([], 2)


def test_an_error_of_a_work_stops_the_others_at_their_next_pause_and_is_raised() -> None:
    seen: list[int] = []

    def endless() -> Iterator[None]:
        while True:
            seen.append(1)
            time.sleep(0.001)
            yield

    def failing() -> Iterator[None]:
        yield
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        interleave([endless(), failing(), endless()], 2)
    before = len(seen)
    time.sleep(0.02)
    assert len(seen) == before, "no thread is left"


def test_a_signal_in_the_callers_thread_stops_all() -> None:
    seen: list[int] = []

    def endless() -> Iterator[None]:
        while True:
            seen.append(1)
            time.sleep(0.001)
            yield

    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        interleave([endless(), endless(), endless()], 2)
    before = len(seen)
    time.sleep(0.02)
    assert len(seen) == before > 0, "no thread is left"


def test_works_run_in_other_threads_with_one_torch_thread_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[tuple[bool, int]] = []

    def work() -> Iterator[None]:
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        yield

    try:
        interleave([work(), work()], 2)
        assert torch.get_num_threads() == 2, "what others find set stays so"
    finally:
        torch.set_num_threads(before)
    assert seen == [(False, 1), (False, 1)]
