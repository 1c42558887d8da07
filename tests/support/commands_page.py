"""The generated part of docs/commands.md; ``python -m tests.support.commands_page`` writes it anew."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import typer.main

from kvbench.cli import app
from kvbench.harness.options import OPTIONS
from tests.support import ROOT

PAGE = ROOT / "docs" / "commands.md"
MARK = "<!-- What follows is written by `python -m tests.support.commands_page`. -->\n"


def item(name: str, default: object, text: str) -> str:
    default = " ".join(default) if isinstance(default, list) else default
    shown = f" (default: `{default}`)" if default not in (None, "", False) else ""
    line = f"- `{name}`{shown}: {text}"
    return textwrap.fill(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def options() -> Iterator[str]:
    """Every option of the pytest plugin, as a list."""
    yield from (item(row.flag, row.default, row.help) for row in OPTIONS)


def parameters(command: Any) -> Iterator[str]:
    """Every argument and option of a command, as a list."""
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        yield item(
            ", ".join(parameter.opts) if option else parameter.name.upper(), parameter.default, parameter.help or ""
        )


def commands(command: Any, name: str) -> Iterator[str]:
    """A section for each command."""
    parts = [f"### {name}", textwrap.fill(" ".join((command.help or "").split()), 118)]
    if given := "\n".join(parameters(command)):
        parts.append(given)
    if command.epilog:
        parts.append(command.epilog.replace("kvbench", "`kvbench", 1) + "`")
    yield "\n\n".join(parts)
    for child, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{name} {child}")


def generated() -> str:
    tree = typer.main.get_command(app)
    parts = ["## Options of a test run", "\n".join(options()), "## Commands", *commands(tree, "kvbench")]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    head = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n{generated()}")
