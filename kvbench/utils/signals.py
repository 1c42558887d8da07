"""What ends a process from outside: signals as an orderly end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGINT_CODE, SIGTERM_CODE = 130, 143  # 128 and the signal's number, as shells have it
ECHO = 2.0  # seconds
Handler = Callable[[int, FrameType | None], object] | int
DEFAULTS: dict[signal.Signals, Handler] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def on_signals(end: Callable[[signal.Signals], NoReturn], *signals: signal.Signals) -> Iterator[None]:
    """Call ``end``, which raises, at the first of ``signals`` that comes inside the block.

    What comes within `ECHO` seconds of it is ignored: a terminal and tox, for example, both pass the same Ctrl-C on.
    What comes later acts as if this block were not there, so that an end that hangs can be ended.

    Does nothing for signals that have another handler than Python gives them, or outside the main thread.

    Args:
        end: called with the signal.
        signals: SIGINT, SIGTERM or both.
    """
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in signals if main and signal.getsignal(number) == DEFAULTS[number]]
    first: list[float] = []

    def restore() -> None:
        for number in mine:
            signal.signal(number, DEFAULTS[number])

    def handle(number: int, _frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            end(signal.Signals(number))
        if time.monotonic() - first[0] > ECHO:
            restore()
            signal.raise_signal(number)

    for number in mine:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
