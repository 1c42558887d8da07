"""The results of complete trainings, kept in the cache: a file for each task, "train this configuration with seeds".

A file's name and contents say all that decides its numbers, so nothing else is ever taken for them. Nobody writes into
another's file, so any number of processes may train seeds of one configuration at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.core.recipe import Configuration
from kvbench.harness.resume import digest, facts_of, plain
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import read_json, write_text

if TYPE_CHECKING:
    from kvbench.studies.study import Study

LOG = logging.getLogger(__name__)
FORMAT = 2  # of a file; raise it when the layout changes
Rows = list[dict[str, Any]]


def check(row: Configuration, results: Mapping[int, Rows], where: str) -> None:
    """Raise `UserError`, naming ``where``, for rows that no complete run of a configuration with this seed has."""
    for seed, rows in results.items():
        wanted = [(row.id, seed, epoch + 1) for epoch in range(row.recipe.epochs)]
        if [(one["configuration"], one["seed"], one["epoch"]) for one in rows] != wanted:
            raise UserError(f"{where} is not that of this training.")
    if results:
        history.check(history.frame((one for rows in results.values() for one in rows), where), where, finite=False)


class Kept:
    """A configuration's complete trainings, seed by seed.

    Args:
        directory: where their files lie.
        configuration: what is trained.
        facts: what else decides its numbers, JSON-serialisable.
    """

    def __init__(self, directory: Path, configuration: Configuration, facts: Mapping[str, Any]):
        self.directory, self.configuration = directory, configuration
        self.facts = json.loads(json.dumps({**facts, **facts_of(configuration), "format": FORMAT}))
        self._stem = f"{plain(configuration.id)}-{digest(self.facts)}"

    @property
    def paths(self) -> list[Path]:
        """The files that there are, in the order of their names."""
        return sorted(self.directory.glob(f"{self._stem}-*.json"))

    def read(self) -> dict[int, Rows | str]:
        """Rows of each complete seed, or why it has none; what cannot be used is said, and trained again."""
        found: dict[int, Rows | str] = {}
        for path in self.paths:
            for seed, result in self._read(path):
                found.setdefault(seed, result)  # two files differ in their seconds alone
        return found

    def _read(self, path: Path) -> Iterator[tuple[int, Rows | str]]:
        try:
            content = read_json(path)
            if content["facts"] != self.facts or content["digest"] != digest(content["seeds"]):
                raise UserError("it is damaged, or another training's")
            found: dict[int, Rows | str] = {int(name): result for name, result in content["seeds"].items()}
            rows = {seed: result for seed, result in found.items() if not isinstance(result, str)}
            check(self.configuration, rows, str(path))
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            LOG.warning("%s cannot be used, %s is trained again: %s", path, self.configuration.id, error)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return
        yield from found.items()

    def write(self, results: Mapping[int, Rows | str]) -> None:
        """Keep what a task came to; its file is there whole or not at all. Raises `UserError` if it can't be."""
        seeds = {str(seed): result for seed, result in sorted(results.items())}
        path = self.directory / f"{self._stem}-{digest({'seeds': list(seeds)})[:8]}.json"
        write_text(path, json.dumps({"facts": self.facts, "seeds": seeds, "digest": digest(seeds)}))

    def clear(self) -> None:
        """Remove all."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def keeps(study: Study) -> bool:
    """Whether what is written by hand in a study lies in files, so that a change of it is a change of the code."""
    recipes = [value for row in study.recipes for value in (row.optimizer, row.loss)]
    made: list[Callable[..., Any] | str | None] = [study.train, *recipes]
    made += [value for row in study.students for value in (row.make, row.make_from)]
    modules = {getattr(getattr(one, "func", one), "__module__", None) for one in made if callable(one)}
    return all(getattr(sys.modules.get(str(name)), "__file__", None) for name in modules)
