"""What a command tells while it works on images: bars, and lines that stay."""

from __future__ import annotations

from contextlib import nullcontext

from kvbench.cli_options import tell
from kvbench.utils.progress import Progress


class Telling:
    """Bars on a terminal, lines on the standard error wherever it goes."""

    def __init__(self) -> None:
        self.progress = Progress(nullcontext)

    def passing(self, split: str, done: int, total: int) -> None:
        """Tell how many images have gone through the teacher."""
        self.progress.show("image", f"teacher pass, {split}", done, total)

    def looking(self, split: str, done: int, total: int) -> None:
        """Tell how many files were looked at."""
        self.progress.show("file", f"looking for unreadable files, {split}", done, total)

    def say(self, text: str) -> None:
        """Write a line."""
        self.close()
        tell(text, err=True)

    def close(self) -> None:
        """Take the bar off."""
        self.progress.close()
