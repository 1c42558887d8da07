"""The results of complete trainings, kept in the cache: a file for each configuration, seed by seed.

A file's name and contents say all that decides its numbers, so nothing else is ever taken for them.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvbench.core.recipe import Configuration
from kvbench.harness.resume import digest, facts_of, plain
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import atomic_write, read_json

LOG = logging.getLogger(__name__)
FORMAT = 1  # of a file; raise it when the layout changes
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
    """The file of a configuration's complete trainings, seed by seed.

    Args:
        directory: where it lies.
        configuration: what is trained.
        facts: what else decides its numbers, JSON-serialisable.
    """

    def __init__(self, directory: Path, configuration: Configuration, facts: Mapping[str, Any]):
        self.configuration = configuration
        self.facts = json.loads(json.dumps({**facts, **facts_of(configuration), "format": FORMAT}))
        self.path = directory / f"{plain(configuration.id)}-{digest(self.facts)}.json"

    def read(self) -> dict[int, Rows | str]:
        """Rows of each complete seed, or why it has none; what cannot be used is said, and trained again."""
        if not self.path.exists():
            return {}
        try:
            content = read_json(self.path)
            if content["facts"] != self.facts or content["digest"] != digest(content["seeds"]):
                raise UserError("it is damaged, or another training's")
            found: dict[int, Rows | str] = {int(name): result for name, result in content["seeds"].items()}
            rows = {seed: result for seed, result in found.items() if not isinstance(result, str)}
            check(self.configuration, rows, str(self.path))
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            LOG.warning("%s cannot be used, %s is trained again: %s", self.path, self.configuration.id, error)
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            return {}
        return found

    def write(self, results: Mapping[int, Rows | str]) -> None:
        """Add seeds to what is there; the file is there whole or not at all. Raises `UserError` if it can't be."""
        seeds = {str(seed): result for seed, result in sorted({**self.read(), **results}.items())}
        with atomic_write(self.path) as tmp:
            tmp.write_text(json.dumps({"facts": self.facts, "seeds": seeds, "digest": digest(seeds)}), encoding="utf-8")
