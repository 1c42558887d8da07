"""Text from outside (files, their names, other programs), made safe to show: on a terminal, and in markdown."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

MARKED = re.compile(r"[\\|`*<\[~$&]|(?<=:)//|(?<![A-Za-z0-9])_|(?i:\bwww)(?=\.)")  # by markdown
OPENING = re.compile(r"[#>+=-]|\d+(?=[.)])")  # what makes more than text of a line that begins with it
SCREEN = 100  # columns of a terminal, for what is read there
COMMAND = re.compile(r"(?<=: )pytest .*")
WIDTH = 120  # characters of a line of markdown


NOT_MEASURED = "not measured"


def number(value: float | None, spec: str = ".4g", *, missing: str = NOT_MEASURED) -> str:
    """A number for a reader: no NaN, no infinity, no minus before a zero.

    Args:
        value: None or NaN where there is none.
        spec: as `format` takes it.
        missing: stands where there is no number.

    Example:
        >>> number(0.12345, "+.2f"), number(None), number(-0.0001, ".3f"), number(math.inf)
        ('+0.12', 'not measured', '0.000', 'not finite')
    """
    if value is None or math.isnan(value):
        return missing
    if math.isinf(value):
        return "not finite"
    text = format(value, spec)
    is_zero = text.startswith("-") and not any(digit in text for digit in "123456789")
    return text.replace("-", "+" if spec.startswith("+") else "", 1) if is_zero else text


def size(count: int) -> str:
    """Bytes for a reader.

    Example:
        >>> size(999), size(1_234_567)
        ('999 B', '1.2 MB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


class Marked(str):
    """Text that is markdown already, and stands in a table as it is."""

    __slots__ = ()


def shown(text: object) -> str:
    """Text from outside, such as a file's name, in one line that any terminal can show.

    Control and invisible characters, and bytes that are no text, are shown by their escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def plain(text: str) -> str:
    r"""The same text for a terminal: what is not seen is shown by its code (``\x1b``); line ends stay."""
    return "\n".join(map(shown, text.replace("\r\n", "\n").split("\n")))


def line(text: str) -> str:
    """The same text in one line, with nothing unseen in it."""
    return shown(" ".join(text.splitlines()))


def cut(text: str, width: int) -> str:
    """Text in at most ``width`` characters: of what is longer, the beginning and the end.

    Example:
        >>> cut("a-student-with-a-long-name", 15)
        'a-stude…ng-name'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def wrap(text: str, indent: int = 0) -> str:
    """Text of anybody's in lines of at most `SCREEN` characters, those that go on set in."""
    return "\n".join(textwrap.wrap(shown(text), SCREEN, subsequent_indent=" " * indent, break_on_hyphens=False))


def fold(text: str, width: int = SCREEN) -> str:
    """Text for a terminal: lines of at most ``width`` characters, those that go on are set in.

    What has no blanks, such as a path, stays whole, and so does a command at the end of a line, which is there to be
    copied.
    """
    folded = []
    for line in text.split("\n"):
        command = COMMAND.search(line)
        head = line[: command.start()] if command and len(line) > width else line
        folded += textwrap.wrap(head, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        folded += [f"  {line[len(head) :]}"] if len(head) < len(line) else [] if head else [""]
    return "\n".join(folded)


def escape(text: str) -> str:
    """Text as one line of markdown that says just that: no table cell, tag, link or emphasis of its own."""
    spaced = "".join(char if char.isprintable() else " " for char in text)
    return MARKED.sub(lambda found: f"{found[0]}\\" if found[0].lower() == "www" else f"\\{found[0]}", spaced)


def item(text: str) -> str:
    """Text as an item of a markdown list, in lines of at most `WIDTH` characters where it has blanks to break at."""
    lines = textwrap.wrap(escape(text), WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(map(_flat, lines))


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table of texts, which are escaped where they are not `Marked`."""
    from tabulate import tabulate  # here, so that pytest's start does without

    cells = [[cell if isinstance(cell, Marked) else escape(cell) for cell in row] for row in [headers, *rows]]
    return tabulate(cells[1:], cells[0], tablefmt="pipe", disable_numparse=True)


def _flat(markdown: str) -> str:
    """The line with what would open a heading, a quote or a list inside the item taken literally."""
    stripped = markdown.lstrip()
    found = OPENING.match(stripped)
    if not found:
        return stripped
    return f"{found[0]}\\{stripped[found.end() :]}" if found[0].isdigit() else f"\\{stripped}"
