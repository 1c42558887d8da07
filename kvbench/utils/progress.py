"""How far a piece of work is, and a bar that shows it on the terminal, whoever captures the output."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from tqdm import tqdm

from kvbench.utils.text import shown


class Progress(NamedTuple):
    """What long work reports again and again: ``Progress("fractals-train: teacher pass", 128, 4096, "image")``.

    Args:
        description: what is under way.
        done, total: units done so far, and of how many.
        unit: what is counted, in the singular.
    """

    description: str
    done: int
    total: int
    unit: str


OnProgress = Callable[[Progress], object]


def ignore(_progress: Progress) -> None:
    """Show nothing: the default of every ``on_progress``."""


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


class ProgressBar:
    """One bar at a time on the terminal: images through the teacher, then epochs of all configurations and seeds.

    Where standard error is no terminal, nothing is drawn. Its method `show` is an `OnProgress`.

    Args:
        uncaptured: gives a context in which standard error is not captured.
        quiet: draw nothing.
    """

    def __init__(self, uncaptured: Callable[[], AbstractContextManager[object]] = nullcontext, *, quiet: bool = False):
        self.terminal, self.quiet = Terminal(uncaptured), quiet
        self.bar: Bar | None = None
        self.shown: Progress | None = None

    def show(self, progress: Progress) -> None:
        """Draw the progress with the time left; a new bar where the unit or the total changes, or ``done`` falls."""
        if self.quiet:
            return
        last = self.shown
        if last is None or last[2:] != progress[2:] or progress.done < last.done:
            self.close()
            last = progress._replace(done=0)
            self.bar = Bar(
                total=progress.total, unit=progress.unit, file=self.terminal, disable=None, leave=False,
                mininterval=0.3, ncols=shutil.get_terminal_size().columns - 1, desc=shown(progress.description),
            )  # fmt: skip
        assert self.bar is not None
        self.bar.set_description(shown(progress.description), refresh=False)
        self.bar.update(progress.done - last.done)
        self.shown = progress

    def print(self, text: str) -> None:
        """Print a line, clear of the bar, on the real standard error, whether that is a terminal or not."""
        self.clear()
        with self.terminal.uncaptured():
            if sys.stderr is not None:
                # Where others capture, they are in the middle of a line: pytest's dots.
                start = "" if self.terminal.uncaptured is nullcontext else "\n"
                sys.stderr.write(f"{start}{text}\n")
                sys.stderr.flush()

    def clear(self) -> None:
        """Make room for others' output; the next `show` draws the bar again, its clock going on."""
        if self.bar is not None:
            self.bar.clear()

    def close(self) -> None:
        """Take the bar off the terminal for good."""
        if self.bar is not None:
            self.bar.close()
        self.bar = self.shown = None
