"""What a shell completes: known values of options and arguments, found without torch and without a project's code."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kvbench.core.recipe import POOLINGS, PRECISIONS
from kvbench.harness.options import ENGINES, MIXED, UNREADABLE
from kvbench.results import storage
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS

if TYPE_CHECKING:
    from kvbench.findings.design import Design

Completer = Callable[[typer.Context, str], list[str]]
HERE = Path(__file__).parents[1]
REGISTERS = "pytest_kvbench_studies"  # what a conftest.py with studies of its own defines


def of(values: Callable[[typer.Context], Iterable[str]] | Iterable[str]) -> Completer:
    """What of these values begins as the word that is typed; nothing where they cannot be found."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        with contextlib.suppress(UserError, OSError):
            found = values(context) if callable(values) else values
            return [value for value in found if value.startswith(incomplete)]
        return []

    return complete


def _given(context: typer.Context, name: str, default: str) -> str:
    return str(context.params.get(name) or default)


def _studies(_: typer.Context) -> Iterable[str]:
    from kvbench.studies.registry import studies

    return studies()


def _design(context: typer.Context) -> Design | None:
    """That of the study that is named, else of kvbench's first; None in a project with studies of its own."""
    from kvbench.studies.registry import find

    name, here = _given(context, "kvbench_study", ""), Path.cwd()
    for folder in () if name else (here / "benchmarks", here, *here.parents):
        path = folder / "conftest.py"
        if path.is_file() and REGISTERS in path.read_text(encoding="utf-8", errors="replace"):
            return None
    return find(name).design


def _findings(context: typer.Context) -> Iterable[str]:
    design = _design(context)
    return design.findings if design else ()


def _configurations(context: typer.Context) -> Iterable[str]:
    design = _design(context)
    return design.names if design else ()


def _students(context: typer.Context) -> Iterable[str]:
    design = _design(context)
    return design.students if design else ()


def _references(context: typer.Context) -> Iterable[str]:
    """Workloads with a reference: of the study that is named, else of any."""
    study = _given(context, "kvbench_study", "")
    found = set[str]()
    for home in (Path(_given(context, "kvbench_expected", "expected")).expanduser(), HERE / "expected"):
        own = home / study if (home / study).is_dir() else home
        for pattern in ("*/histories.csv",) if study else ("*/histories.csv", "*/*/histories.csv"):
            found |= {path.parent.name for path in own.glob(pattern)}
    return sorted(found)


def _saved(context: typer.Context) -> Iterable[str]:
    """Names of saved runs where they are unique; with their numbers, for who types those."""
    stems = [path.stem for path in storage.files(Path(_given(context, "storage", str(storage.STORAGE))))]
    names = [stem.partition("_")[2] for stem in stems]
    return [*(name for name in names if name and names.count(name) == 1), *stems]


def _sides(context: typer.Context) -> Iterable[str]:
    return [*_saved(context), *_references(context)]


def _files(_: typer.Context) -> Iterable[str]:
    return map(str, storage.files(storage.STORAGE))


def _faults(_: typer.Context) -> Iterable[str]:
    """The ids in the sources of `kvbench.mutation.faults`, as importing it takes torch."""
    for path in sorted((HERE / "mutation" / "faults").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Fault":
                yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))  # type: ignore[misc]


def _charts(_: typer.Context) -> Iterable[str]:
    from kvbench.reporting.figures import MAKERS

    return ["curves", *MAKERS]


def _tables(_: typer.Context) -> Iterable[str]:
    from kvbench.reporting.report import TITLES

    return ["verdicts", *TITLES, "time", "seconds", "clauses", "tolerances"]


def _forms(_: typer.Context) -> Iterable[str]:
    from kvbench.reporting.table import FORMATS

    return FORMATS


def _kinds(_: typer.Context) -> Iterable[str]:
    from kvbench.harness.cache import KINDS

    return KINDS


findings, configurations, students = of(_findings), of(_configurations), of(_students)
references, sides, files, faults = of(_references), of(_sides), of(_files), of(_faults)
charts, tables, forms, kinds = of(_charts), of(_tables), of(_forms), of(_kinds)
reports = of(("text", "markdown", "json", "csv", "latex"))
# Of rows of the OPTIONS table, by their names.
OF_OPTIONS: dict[str, Any] = {
    "study": of(_studies),
    "workload": of(WORKLOADS),
    "device": of(("auto", "cpu", "cuda", "mps", "xpu")),
    "engine": of(ENGINES),
    "pooling": of(POOLINGS),
    "precision": of(PRECISIONS),
    "unreadable": of(UNREADABLE),
    "mixed": of(MIXED),
}
