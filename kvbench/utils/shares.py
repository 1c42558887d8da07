"""Shares of work for job arrays: the I-th of N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from kvbench.utils.errors import UserError

Task = TypeVar("Task")


@dataclass(frozen=True)
class Share:
    """The I-th of N shares of some tasks: the I-th task and every N-th after it.

    Example:
        >>> Share.parse("2/3").of("abcdefg")
        ['b', 'e']
    """

    number: int = 1  # from 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse ``I/N``. Raises `UserError` for anything else."""
        number, slash, count = text.strip().partition("/")
        valid = slash and all(part.isascii() and part.isdigit() and len(part) < 10 for part in (number, count))
        if not valid or not 1 <= int(number) <= int(count):
            raise UserError(
                f"Cannot read the part {text[:40]!r}: give I/N, the I-th of N shares of the work, such as 1/8 to 8/8."
            )
        return cls(int(number), int(count))

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks of this share; tasks that lie side by side and take long are dealt to different ones."""
        return list(tasks[self.number - 1 :: self.count])
