"""What a user can get wrong, told in a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something outside kvbench is wrong: an option, a folder, a file. The message is all that the user sees."""


def unknown(kind: str, value: str, valid: Iterable[str]) -> UserError:
    """An error for a ``value`` that is not among the ``valid`` ones: names the nearest, then all of them."""
    names = list(valid)
    close = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return UserError(f"Unknown {kind} {value!r}.{hint} Valid: {', '.join(names) or 'none'}.")
