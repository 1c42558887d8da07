"""What a command is made of: the options that it shares with pytest, what it prints, the study that it is about."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbench.cli.complete import OF_OPTIONS
from kvbench.harness.options import OPTIONS, Option
from kvbench.utils.errors import UserError
from kvbench.utils.progress import ProgressBar
from kvbench.utils.text import plain

if TYPE_CHECKING:
    from kvbench.findings.design import Design

KEYWORD = inspect.Parameter.KEYWORD_ONLY
OF_BANKS = [row.name for row in OPTIONS if row.decides_banks]
logger = logging.getLogger(__name__)
bar = ProgressBar()
# Markup would take words in brackets out of help.
style: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}


def takes(
    names: Iterable[str], *, asks: bool = True, again: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take rows of the OPTIONS table, as ``--NAME`` and under pytest's names, which messages use.

    The command's first parameter gets the parsed values of all rows, by name; those not taken have their defaults. Its
    ``project`` are the studies of the current project, if it ``asks`` for them, its ``texts`` the options that were
    given, as they were. Options that may be given ``again`` and again give it several such sets of values, in its
    ``each``: one that is given once holds for all.
    """
    taken = {row.ini: row for row in OPTIONS if row.name in names}
    taken_by_name = {row.name: row for row in taken.values()}
    asks = asks and "study" in names

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            texts = {row.name: given.pop(name) for name, row in taken.items()}
            sides = _sides({name: texts.pop(name) for name in again})
            texts = {name: " ".join(text) if isinstance(text, list) else text for name, text in texts.items()}
            project: list[Any] = []
            if asks:
                from kvbench.harness.projects import of_this_project

                project = of_this_project()  # before values are read: it may register workloads, too
            each = []
            for side in sides:
                values = {row.name: row.parse((texts | side).get(row.name, row.default)) for row in OPTIONS}
                said = {name: text for name, text in (texts | side).items() if text != taken_by_name[name].default}
                each.append(values | {"project": project, "texts": said})
            command(each[0] | {"each": each}, **given)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        added = []
        for name, row in taken.items():
            several = row.several or row.name in again
            default = [row.default][: bool(row.default)] if several else row.default
            added.append(inspect.Parameter(name, KEYWORD, default=default, annotation=_typed(row, several)))
        signature = inspect.Signature([*added, *(parameter.replace(kind=KEYWORD) for parameter in own)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        return run

    return decorate


def _sides(given: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """What options that may be given several times say, side by side."""
    count = max((len(texts) for texts in given.values()), default=1) or 1
    for name, texts in given.items():
        if len(texts) not in {0, 1, count}:
            raise UserError(
                f"--{name} is given {len(texts)} times: valid is once for all, or {count} times, as another is."
            )
    return [{name: texts[k % len(texts)] for name, texts in given.items() if texts} for k in range(count)]


def _typed(row: Option, several: bool) -> Any:
    short = "folder" if row.name == "expected" else row.name  # `kvbench report --expected imagenet` names a workload
    text = row.help[0].upper() + row.help[1:]
    kind = list[str] if several else str
    known = OF_OPTIONS.get(row.name)
    return Annotated[
        kind, typer.Option(f"--{short}", row.flag, help=text, metavar=row.name.upper(), autocompletion=known)
    ]


def example(text: str) -> dict[str, Any]:
    """A line below a command's help."""
    return {"epilog": f"Example: kvbench {text}"}


def echo(text: str, *, err: bool = False) -> None:
    """Print text, whatever is in it: the one way in which a command writes to the terminal."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    typer.echo(plain(text).encode(encoding, "backslashreplace").decode(encoding), err=err)  # noqa: TID251


def folder_and_design(values: Mapping[str, Any], study: str = "") -> tuple[Path, Design]:
    """The folder of a study's references, and its design: of the one that an option names, else of ``study``."""
    from kvbench.findings.design import Design
    from kvbench.studies.registry import find, studies
    from kvbench.utils.files import check_name

    if study and not values["study"] and study not in studies(values["project"]):
        logger.warning("The study %s is not known here, so no finding is judged: run this in its project.", study)
        return values["expected"] / check_name(study, "The study of the file"), Design(study, {})
    row = find(values["study"] or study, values["project"])
    return values["expected"] / row.references, row.design
