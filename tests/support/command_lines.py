"""Command lines that documents show, and whether kvbench, pytest, tox and Python's modules take them."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer

from kvbench.cli import app
from tests.support import ROOT

BETWEEN = {"&&", "||", ";", "|", "&"}
INTO = {">", ">>", "<", "2>", "2>&1"}  # with a file behind it
WORDS_OF_SHELLS = {"if", "then", "else", "do", "!", "nice", "time"}
OTHERS = {  # programs and words of shells whose arguments are not looked at
    "[", "cat", "cd", "echo", "exit", "export", "fi", "gh", "git", "mkdir", "pip", "pre-commit", "source",
    "eval", "python3", "ruff", "mypy", "lint-imports",
}  # fmt: skip


def commands(text: str) -> Iterator[list[str]]:
    """The words of every simple command in lines of a shell, without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        plain = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line)  # what a command prints, in a variable
        lexer = shlex.shlex(plain, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in [*lexer, ";"]:
            if skip:
                skip = False
            elif word in INTO:
                skip = True
            elif word not in BETWEEN:
                words.append(word)
            else:
                while words and (words[0] in WORDS_OF_SHELLS or re.match(r"\w+=", words[0])):
                    words.pop(0)
                if words:
                    yield words
                words = []


@cache
def tree() -> dict[tuple[str, ...], Any]:
    """Every command of kvbench by its words."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*path, name))

    return dict(below(typer.main.get_command(app), ()))


def problem(words: list[str], config: pytest.Config, *, mentioned: bool = False) -> str:
    """Why a command line cannot be, in a few words; empty if it can.

    ``mentioned``: it stands in a sentence, where a name alone means the command.
    """
    program, *rest = words
    program = program.rpartition("/")[2]
    if program == "kvbench":
        return _kvbench(rest, mentioned)
    if program == "sbatch":
        wrapped = commands(rest[rest.index("--wrap") + 1])
        return next((why for inner in wrapped if (why := problem(inner, config))), "")
    if program == "python":
        return _python(rest, config)
    if program == "pytest":
        return _pytest(rest, config)
    if program == "tox":
        return _tox(rest)
    return "" if program in OTHERS or mentioned else f"{program} is not known here"


def _kvbench(rest: list[str], mentioned: bool) -> str:
    while rest and rest[0] in {"-q", "-v"}:
        rest = rest[1:]
    if rest[:1] in ([], ["COMMAND"], ["--help"], ["--install-completion"], ["--show-completion"]):
        return ""
    path = max((one for one in tree() if tuple(rest[: len(one)]) == one), key=len)
    command, given = tree()[path], rest[len(path) :]
    if not path or (getattr(command, "commands", None) and given):
        return f"there is no command {' '.join(rest)}"
    if not given and mentioned:
        return ""
    try:
        left = command.make_context("kvbench", list(given)).args
    except Exception as error:  # click's, which typer may bring itself
        if mentioned and type(error).__name__ in {"MissingParameter", "BadOptionUsage"}:
            return ""
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return f"{left} are too many" if left else ""


def _pytest(rest: list[str], config: pytest.Config) -> str:
    parser: Any = config._parser  # the one that this session's options went through
    try:
        _, unknown = parser.parse_known_and_unknown_args(list(rest))
    except (pytest.UsageError, SystemExit) as error:
        return str(error)
    left = [word for word in unknown if word.startswith("-")]
    return f"pytest does not know {left}" if left else ""


def _python(rest: list[str], config: pytest.Config) -> str:
    if rest[:1] != ["-m"] or len(rest) < 2:
        return ""
    if rest[1] == "pytest":
        return _pytest(rest[2:], config)
    return "" if rest[1] == "venv" or importlib.util.find_spec(rest[1]) else f"there is no module {rest[1]}"


def _tox(rest: list[str]) -> str:
    known = configparser.ConfigParser()
    known.read(ROOT / "tox.ini")
    names = {"py", *(section.removeprefix("testenv:") for section in known.sections())}
    chosen = re.split(r"[ ,]+", rest[rest.index("-e") + 1]) if "-e" in rest else []
    return next((f"tox.ini has no environment {name}" for name in chosen if name not in names), "")
