"""What a project registers in its conftest.py, for its test runs and for the commands."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.core.recipe import Recipe
from kvbench.harness.options import OPTIONS
from kvbench.studies.experiment import Experiment, read_choices
from kvbench.studies.registry import find
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError, describe, raised_at, unknown
from kvbench.workloads import DEFAULT, Workload, workload

if TYPE_CHECKING:
    from kvbench.harness.session import Session

OWN = "default"  # the workload of a study that trains without images and names none
FOLDER = "benchmarks"  # where a project's suite lies, apart from what its ini file names


def registered(config: pytest.Config) -> list[Study]:
    """The studies that conftest.py files and plugins register; raises `UserError` where one of them fails."""
    try:
        every = config.hook.pytest_kvbench_studies(config=config)
        return [study for one in every for study in ([one] if isinstance(one, Study) else one)]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"pytest_kvbench_studies fails: {describe(error)} ({raised_at(error)}). It returns a kvbench.Study, or"
            " several in a list."
        ) from error


class Asked:
    """A plugin that asks for studies and for options of the ini file, instead of running tests."""

    def __init__(self) -> None:
        self.studies: list[Study] | None = None
        self.options: dict[str, str] = {}  # texts by the options' names; paths from the root folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        for row in OPTIONS:
            text = str(config.getini(row.ini))
            if text != row.default:
                self.options[row.name] = str(config.rootpath / Path(text).expanduser()) if row.path else text
        self.studies = registered(config)
        return 0


def of_this_project() -> list[Study]:
    """The studies that the conftest.py files in and above the current folder register, as a test run here finds them.

    Raises:
        UserError: a conftest.py fails, with what pytest says of it.
    """
    here = Path.cwd()
    if not any((folder / "conftest.py").is_file() for folder in (here, here / FOLDER, *here.parents)):
        return []
    return ask().studies or []


def ask() -> Asked:
    """What a test run in the current folder finds there: studies, and options of the ini file.

    Raises:
        UserError: a conftest.py fails, with what pytest says of it.
    """
    asked = Asked()
    output = _quietly(asked, *([FOLDER] if Path(FOLDER).is_dir() else []))
    if asked.studies is None:
        raise UserError(f"The studies of this project cannot be asked for, as pytest fails here: {output}.")
    return asked


def _quietly(plugin: object, *arguments: str) -> str:
    """Run pytest without a word; returns its errors in one line, or what it says last."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        pytest.main(["-p", "no:cacheprovider", *arguments], plugins=[plugin])
    lines = [line.strip() for line in output.getvalue().splitlines() if line.strip()]
    return "; ".join([line.removeprefix("E").strip() for line in lines if line.startswith("E ")] or lines[-1:])


class _Collecting:
    """A plugin that keeps what a session would train."""

    def __init__(self) -> None:
        self.session: Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        plugin = session.config.pluginmanager.getplugin("kvbench-session")
        if plugin is None or session.testsfailed:
            return
        self.session = plugin.started


def flags(texts: Mapping[str, str]) -> list[str]:
    """Options of a test run by name, as words of its command."""
    given = [(row, texts[row.name]) for row in OPTIONS if row.name in texts and row.name != "engine"]
    return [word for row, text in given for word in (row.flag, *(text.split() if row.several else [text]))]


def collected(arguments: Sequence[str]) -> Session:
    """The session that ``pytest benchmarks/`` with these arguments is, before its first test.

    Raises:
        UserError: there is no such folder, pytest cannot collect it, or no test in it trains.
    """
    if not Path(FOLDER).is_dir():
        raise UserError(f"There is no folder {FOLDER}/ here, whose tests say what is trained: kvbench init writes one.")
    collecting = _Collecting()
    output = _quietly(collecting, FOLDER, "--collect-only", "-q", *arguments)
    if collecting.session is None or not collecting.session.rows:
        raise UserError(f"pytest finds nothing to train in {FOLDER}/: {output}.")
    return collecting.session


def chosen(values: Mapping[str, Any], project: Sequence[Study]) -> tuple[Study, Workload]:
    """The study and the workload that options choose; raises `UserError` where there is none of a name."""
    study = find(values["study"], project)
    if study.train is None:
        return study, workload(values["workload"] or next(iter(study.workloads), DEFAULT))
    names = list(study.workloads) or [OWN]  # of a study that trains by itself a workload is a name
    name = values["workload"] or names[0]
    if name not in names:
        raise unknown("workload", name, names)
    return study, Workload.without_images(name)


def experiment(values: Mapping[str, Any], project: Sequence[Study]) -> Experiment:
    """What options choose: a study on a workload, with fields of its own; raises `UserError` where they do not fit."""
    return Experiment(*chosen(values, project), read_choices(values["set"], Recipe, Workload))
