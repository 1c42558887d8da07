"""Memory that runs out, as a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kvbench.utils.errors import UserError

# What torch says when memory on the CPU runs out, in a RuntimeError like any other.
CPU_ALLOCATOR = (
    "DefaultCPUAllocator",
    "not enough memory: you tried to allocate",
    "can't allocate memory",
    "Cannot allocate memory",  # of a file that cannot be mapped
)
KILLED = re.compile(r"DataLoader worker \(pid.*?(?:killed by signal: ([\w ]+)|exited unexpectedly)", re.DOTALL)
OTHER_PLACE = "Close what else uses it, or choose another device with --kvbench-device."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an accelerator's memory or this machine's ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_ALLOCATOR)


@contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Raise a sentence when memory runs out inside the block: ``what`` needed it, and ``remedy`` says what to do.

    Raises:
        UserError: an accelerator's memory or this machine's ran out, or a process that reads images was killed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if killed := KILLED.search(str(error)):
            signal = f" (signal: {killed[1].strip()})" if killed[1] else ""
            raise UserError(
                f"A process that reads images ended unexpectedly{signal}: most often the system ran out of memory and"
                " killed it. Free memory, or read with fewer processes: put `taskset -c 0,1` before the command."
            ) from error
        if not out_of_memory(error):
            raise
        first = str(error).partition("\n")[0].rstrip(". ")
        raise UserError(f"There is not enough memory for {what}{f' ({first})' if first else ''}. {remedy}") from error
