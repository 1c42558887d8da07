"""Errors that a user can correct, in one sentence."""

from __future__ import annotations

import contextlib
import difflib
import logging
import traceback
from collections.abc import Iterable, Iterator, Sequence

from kvbench.utils.text import line, shown

SHOWN = 5  # names in a message
LONGEST = 4000  # characters of a sentence that anyone would read


class UserError(ValueError):
    """Something outside kvbench is wrong: an option, a folder, a file. The message is all that the user sees.

    It is one line, safe for a terminal whatever a file or its name put into it.

    Example:
        >>> try:
        ...     read_saved(Path("first.json"))
        ... except UserError as error:
        ...     print(error)
        There is no file first.json.
    """

    def __init__(self, message: str):
        text = line(message[:LONGEST])
        super().__init__(text if len(message) <= LONGEST else f"{text} ... ({len(message):,} characters)")


def shorten(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more


def describe(error: BaseException) -> str:
    """An error of someone else's code for a sentence: its type and the first line of what it says."""
    first = ""
    with contextlib.suppress(Exception):  # a __str__ may fail, too
        first = str(error).strip().partition("\n")[0].rstrip(". ")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def raised_at(error: BaseException) -> str:
    """The file and line that raised an error, for a sentence."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def need_name(name: object, what: str) -> None:
    """Raise `UserError` where a name is no text that can be seen whole in one line."""
    if not (isinstance(name, str) and name and name.isprintable() and name == name.strip()):
        raise UserError(f"{what} is called {name!r}; valid is a name of printable characters.")


def unknown(kind: str, value: str, valid: Iterable[str]) -> UserError:
    """An error for a ``value`` that is not among the ``valid`` ones: names the nearest, then all of them."""
    names = list(valid)
    folded = {name.casefold(): name for name in names}
    # The time that it takes grows with the product of the lengths.
    close = [folded[name] for name in difflib.get_close_matches(value[:200].casefold(), folded, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return UserError(f"Unknown {kind} {value!r}.{hint} Valid: {', '.join(names) or 'none'}.")


@contextlib.contextmanager
def best_effort(what: str) -> Iterator[None]:
    """A block that only describes: whatever fails in it becomes a warning in the log, and the program goes on.

    Args:
        what: completes "Could not ...".

    Example:
        >>> facts = {}
        >>> with best_effort("look up the hardware"):
        ...     facts["hardware"] = open("/nonexistent").read()
        >>> facts
        {}
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else describe(error)
        logging.getLogger("kvbench").warning("Could not %s: %s", what, line(reason[:LONGEST]))
