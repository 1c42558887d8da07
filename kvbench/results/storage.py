"""Where pytest-benchmark saves runs: a folder with a folder for each machine in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kvbench.utils.errors import UserError, shorten

STORAGE = Path(".benchmarks")  # pytest-benchmark's default


def files(storage: Path) -> list[Path]:
    """The saved files of all machines: machine by machine, in the order in which they were saved.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    try:
        return sorted(path for path in storage.glob("*/*.json") if path.is_file())
    except OSError as error:
        raise UserError(f"The folder {storage} can't be read: {error.strerror or error}.") from None


def find(text: str, storage: Path) -> Path | None:
    """The saved file that a text means, as ``--benchmark-compare`` takes it; None if it means none.

    Args:
        text: a number (``12`` or ``0012``), the name given to ``--benchmark-save``, or how a file's name begins; before
            it, a machine's folder and a slash.
        storage: the folder of all machines.

    Raises:
        UserError: several files fit.
    """
    *machine, name = text.rsplit("/", 1)
    if not name:
        return None
    number = name.zfill(4) if name.isascii() and name.isdigit() else ""
    there = [path for path in files(storage) if not machine or path.parent.name == machine[0]]
    for fits in (
        [path for path in there if name in (path.name, path.stem)],
        [path for path in there if number and path.name.startswith(f"{number}_")],
        [path for path in there if path.stem.partition("_")[2] == name],
        [path for path in there if path.name.startswith(name)],
    ):
        if len(fits) > 1:
            raise UserError(f"Several saved runs fit {text!r}: {shorten([str(path) for path in fits])}. Name one file.")
        if fits:
            return fits[0]
    return None


def is_file(path: Path) -> bool:
    """Whether there is such a file; no text is too odd to ask."""
    with contextlib.suppress(OSError, ValueError):  # a name that is too long, or has a NUL
        return path.is_file()
    return False
