"""Help: nothing that it should say is lost on the way to the terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from kvbench.cli import app
from kvbench.harness.options import OPTIONS
from kvbench.mutation.faults import FAULTS
from tests.support.commands import Call


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below one; of types that typer may bring itself or take from click."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


def texts(parameter: Any) -> list[str]:
    """What a parameter's source says: its help, its names, its default."""
    default = [str(parameter.default)] if isinstance(parameter.default, (str, int, float)) else []
    return [getattr(parameter, "help", None) or "", *parameter.opts, *(one for one in default if one != "False")]


def test_every_command_is_looked_at() -> None:
    assert {(), ("extract",), ("report",), ("teacher", "train"), ("detect",), ("power",), ("students",)} <= {*COMMANDS}


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_holds_every_word_of_its_source(
    path: tuple[str, ...], columns: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, str(columns))
    told = call(*path, "--help")
    assert told.code == 0, told.err
    assert max(map(len, told.out.splitlines())) <= columns
    shown = " ".join(words(told.out))
    command = COMMANDS[path]
    sources = [
        command.help or "",
        command.epilog or "",
        *(text for parameter in command.params for text in texts(parameter)),
    ]
    sources += [inner.help.partition("\n\n")[0] for inner in getattr(command, "commands", {}).values()]
    for source in sources:
        missing = [word for word in words(source) if word not in shown]
        assert not missing, f"{missing} of {source!r}"
    assert all(parameter.help for parameter in command.params if parameter.param_type_name == "option")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    head, _, rest = COMMANDS[path].epilog.partition("kvbench ")
    arguments = shlex.split(rest)
    assert (head, tuple(arguments[: len(path)])) == ("Example: ", path)
    shown = max((one for one in COMMANDS if tuple(arguments[: len(one)]) == one), key=len)
    context = COMMANDS[shown].make_context("kvbench", arguments[len(shown) :])
    assert context.args == []
    assert {*(context.params.get("fault") or ())} <= {*FAULTS}


def test_help_of_pytests_options_goes_through_argparse() -> None:
    for row in OPTIONS:
        assert row.help % {} == row.help, "argparse takes % for a format"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_option_of_pytests_has_its_name_there_too(path: tuple[str, ...]) -> None:
    names = {row.flag for row in OPTIONS}
    given = {opt for parameter in COMMANDS[path].params for opt in parameter.opts if opt.startswith("--kvbench-")}
    assert given <= names, "a sentence that names an option is true everywhere"


def test_help_is_the_same_without_colours(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = call("teacher", "train", "--help")
    monkeypatch.setenv("NO_COLOR", "1")
    assert call("teacher", "train", "--help") == plain
    assert "\x1b" not in plain.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "lr=nan"], "has lr nan; valid is a number above 0"),
        (["--set", "lr=-1"], "has lr -1; valid is a number above 0"),
        (["--set", "size=0"], "Images of 0 pixels a side: valid is a number from 1 to 4096"),
        (["--set", "size=big"], "Cannot read size=big: valid is a whole number"),
        (["--arch", "resnet19"], "Unknown torchvision model 'resnet19'"),
        (["--set", "batch_size=1"], "has batch_size 1; valid is a whole number from 2"),
        (["--set", "epochs=0"], "has epochs 0; valid is a whole number from 1"),
    ],
)
def test_numbers_of_a_training_that_are_invalid_are_told(arguments: list[str], sentence: str, call: Call) -> None:
    told = call("teacher", "train", "--device", "cpu", *arguments)
    assert told.code == 2
    assert sentence in told.err
