"""What kvbench logs, shown on standard error: records of the logger ``kvbench``, safe for any terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kvbench.utils.progress import ProgressBar
from kvbench.utils.text import plain

LOGGER = "kvbench"  # every module's logger lies below it


class SafeFormatter(logging.Formatter):
    r"""The message, with ``Warning:`` before it where it is one; control characters become escapes (``\x1b``)."""

    def format(self, record: logging.LogRecord) -> str:
        label = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        return plain(label + super().format(record))


class TerminalHandler(logging.Handler):
    """Prints records as lines that neither a capture nor a progress bar swallows.

    Args:
        bar: the bar to keep clear of.
    """

    def __init__(self, bar: ProgressBar):
        super().__init__()
        self.bar = bar
        self.setFormatter(SafeFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.bar.print(self.format(record))
        except Exception:
            self.handleError(record)


def level(verbosity: int) -> int:
    """The level to show: warnings alone below 0 (``-q``), ``INFO`` at 0, ``DEBUG`` above (``-v``)."""
    return logging.WARNING if verbosity < 0 else logging.DEBUG if verbosity else logging.INFO


@contextmanager
def log_warnings() -> Iterator[None]:
    """Log what Python's `warnings` show inside the block, each text once, instead of printing it with source code."""
    texts = set[str]()

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if str(message) not in texts:
            texts.add(str(message))
            logging.getLogger(LOGGER).warning("%s (%s)", message, category.__name__)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def show_logs(bar: ProgressBar, verbosity: int = 0) -> Iterator[None]:
    """Print what kvbench logs inside the block.

    Example:
        >>> with show_logs(ProgressBar(), verbosity=-1):  # warnings alone
        ...     bank = open_bank(Store(settings, cache, "mine-train"), device)
    """
    logger, handler = logging.getLogger(LOGGER), TerminalHandler(bar)
    before = logger.level
    logger.setLevel(level(verbosity))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
