"""What ends a process from outside: SIGTERM as an orderly end, like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGINT_CODE, SIGTERM_CODE = 130, 143  # 128 and the signal's number, as shells have it


@contextmanager
def on_sigterm(act: Callable[[], NoReturn]) -> Iterator[None]:
    """Call ``act``, which raises, when SIGTERM comes inside the block; blocks that end then leave nothing half-done.

    Does nothing where another handler is set, or outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what ends now must not be ended again
        act()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
