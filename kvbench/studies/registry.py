"""The studies that there are: those that come with kvbench, those of installed packages, and those of a project."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points

from kvbench.studies import kv_memory, linear_probes
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError, describe, unknown

ENTRY_POINTS = "kvbench.studies"  # each a `Study`, or a function that returns one or several
DEFAULT = kv_memory.STUDY.name
BUILT_IN = {study.name: study for study in (kv_memory.STUDY, linear_probes.STUDY)}


def studies(project: Iterable[Study] = ()) -> dict[str, Study]:
    """All studies by name: built-in ones, those of entry points, and ``project``'s.

    Raises:
        UserError: two different ones have one name, or something else than a study is registered.

    Example:
        >>> list(studies())[0]
        'kv-memory'
    """
    found = dict(BUILT_IN)
    for study in (*_installed(), *project):
        if not isinstance(study, Study):
            raise UserError(f"A {type(study).__name__} is registered as a study; valid is a kvbench.Study.")
        if found.setdefault(study.name, study) != study:
            raise UserError(f"Two different studies are called {study.name}: give yours another name.")
    return found


def find(name: str, project: Iterable[Study] = ()) -> Study:
    """Look a study up.

    Args:
        name: its name; empty: the project's only one, or the one that comes first in kvbench.
        project: those that the project registers.

    Raises:
        UserError: there is no such study (names the nearest), or the project has several and none is named.
    """
    known = studies(project)
    own = {study.name: study for study in project}
    if not name:
        if len(own) > 1:
            raise UserError(f"This project has several studies: choose one with --kvbench-study ({', '.join(own)}).")
        name = next(iter(own), DEFAULT)
    if name not in known:
        raise unknown("study", name, known)
    return known[name]


def _installed() -> list[Study]:
    found: list[Study] = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
            made = loaded if isinstance(loaded, Study) else loaded()
            found += [made] if isinstance(made, Study) else list(made)
        except Exception as error:  # noqa: PERF203 (few)
            raise UserError(
                f"The studies of the entry point {point.name} ({point.value}) cannot be loaded: {describe(error)}."
            ) from error
    return found
