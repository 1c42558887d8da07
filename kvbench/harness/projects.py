"""What a project registers in its conftest.py, for its test runs and for the commands."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvbench.core.recipe import Recipe
from kvbench.studies.experiment import Experiment, read_choices
from kvbench.studies.registry import find
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError, describe, raised_at, unknown
from kvbench.workloads import DEFAULT, Workload, workload

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


class _Asking:
    """A plugin that asks for studies instead of running tests."""

    def __init__(self) -> None:
        self.studies: list[Study] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
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
    asking, said = _Asking(), io.StringIO()
    arguments = ["-p", "no:cacheprovider", *([FOLDER] if Path(FOLDER).is_dir() else [])]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        pytest.main(arguments, plugins=[asking])
    if asking.studies is None:
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")] or lines[-1:]
        raise UserError(f"The studies of this project cannot be asked for, as pytest fails here: {'; '.join(errors)}.")
    return asking.studies


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
