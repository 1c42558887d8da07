"""Progress on the terminal's next line, whoever captures the output; where there is no terminal, sentences alone."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from tqdm import tqdm

from kvbench.utils.text import plain, shown


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar without its background thread: it is updated often enough by itself."""

    monitor_interval = 0


class Terminal(io.TextIOBase):
    """Writes to the real standard error, below the line in which pytest prints its dots.

    ``uncaptured`` gives a context in which standard error is not captured.
    """

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[object]]):
        self.uncaptured = uncaptured

    def isatty(self) -> bool:
        with self.uncaptured():
            return sys.stderr is not None and sys.stderr.isatty()

    def write(self, text: str) -> int:
        if text.strip("\n"):
            with self.uncaptured():
                # Make room for a line below (index, up), save the cursor, draw on that line, restore the cursor.
                sys.stderr.write("\x1bD\x1b[A\x1b7\x1b[B\r\x1b[K" + text.strip("\n") + "\x1b8")
                sys.stderr.flush()
        return len(text)


class Progress:
    """One bar at a time: images through the teacher, then epochs of all configurations and seeds."""

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[object]]):
        self.terminal = Terminal(uncaptured)
        self.bar: Bar | None = None
        self.kind: tuple[str, int] | None = None  # unit and total of the bar
        self.done = 0

    def show(self, unit: str, text: str, done: int, total: int) -> None:
        """Draw ``done`` of ``total`` units with the time left; ``text`` says what is under way, whatever is in it."""
        text = shown(text)
        if self.kind != (unit, total) or done < self.done:
            self.close()
            self.kind, self.done = (unit, total), 0
            columns = shutil.get_terminal_size().columns - 1
            self.bar = Bar(
                desc=text, total=total, unit=unit, file=self.terminal, disable=None, leave=False, mininterval=0.3,
                ncols=columns,
            )  # fmt: skip
        assert self.bar is not None
        self.bar.set_description(text, refresh=False)
        self.bar.update(done - self.done)
        self.done = done

    def say(self, text: str) -> None:
        """Print a sentence on a line of its own, on the real standard error, whether that is a terminal or not.

        It may hold text from outside, such as a file's name: what is not seen is shown by its code.
        """
        self.clear()
        with self.terminal.uncaptured():
            if sys.stderr is not None:
                # Where others capture, they are in the middle of a line: pytest's dots.
                start = "" if self.terminal.uncaptured is nullcontext else "\n"
                sys.stderr.write(f"{start}{plain(text)}\n")
                sys.stderr.flush()

    def clear(self) -> None:
        """Make room for others' output; the next `show` draws the bar again, its clock going on."""
        if self.bar is not None:
            self.bar.clear()

    def close(self) -> None:
        """Take the bar off the terminal for good."""
        if self.bar is not None:
            self.bar.close()
        self.bar, self.kind = None, None
