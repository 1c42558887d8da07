"""Long works side by side: as many at once as there are workers, each taking turns with those that wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def interleave(works: Sequence[Iterator[None]], workers: int) -> None:
    """Exhaust every iterator of ``works``, in ``workers`` threads with one torch thread each.

    After every item the work goes to the end of the queue, so that three works share two threads evenly. The first
    error of a work, or a signal in the caller's thread, stops the others at their next pause and is raised, once no
    thread is left.
    """
    waiting: queue.SimpleQueue[Iterator[None]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            try:
                steps = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                next(steps)
            except StopIteration:
                ended.put(None)
            except BaseException as error:
                ended.put(error)
            else:
                waiting.put(steps)

    for steps in works:
        waiting.put(steps)
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=start_thread)
    try:
        for _ in range(workers):
            pool.submit(work)
        for _ in works:
            error = ended.get()
            if error is not None:
                raise error
    finally:
        stopping.set()
        pool.shutdown()
        torch.set_num_threads(threads)  # a worker's call sets what new threads start with, too


def start_thread() -> None:
    """Begin a worker's thread: it computes alone, and a caller's flushed denormals are not its own."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
