"""What kvbench logged, as a list of messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _List(logging.Handler):
    def __init__(self, messages: list[str]):
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def logged(level: int = logging.INFO) -> Iterator[list[str]]:
    """A block whose log messages are collected in the list that it yields."""
    messages: list[str] = []
    logger, handler = logging.getLogger("kvbench"), _List(messages)
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
