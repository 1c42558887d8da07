"""A function called with many arguments, in as many processes as there are processors."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]


@contextmanager
def side_by_side(workers: int = 0) -> Iterator[Each]:
    """A block with a function that calls another with each of many arguments and yields results as they come.

    Args:
        workers: processes; 0: one a processor; 1: none, the calls are made here.

    Example:
        >>> with side_by_side(1) as each:
        ...     sorted(each(pow, [(2, 3), (2, 4)]))
        [8, 16]
    """
    count = workers or os.cpu_count() or 1
    if count == 1:
        yield lambda function, arguments: (function(*one) for one in arguments)
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)

    def each(function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        waiting, under_way = list(reversed(arguments)), set[Future[Result]]()
        while waiting or under_way:
            while waiting and len(under_way) < 2 * count:  # not all at once: whoever stops waits for these
                under_way.add(pool.submit(function, *waiting.pop()))
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for one in ended:
                yield one.result()

    try:
        yield each
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Begin a worker: it computes alone, leaves interrupts to its parent, and ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # they were said where a reference was made
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
