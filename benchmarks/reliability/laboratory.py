"""The project that faults are tried on, and what came of each."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.project import Project, Trouble


@dataclass
class Result:
    """How often a fault was tried, and what came of it.

    Args:
        fault: what was done.
        tries: how often.
        survived: tries after which the same command ended in the undisturbed tables.
        where: in which stages it struck.
        lost: what went wrong in the others, a sentence each.
        note: what else the reader should know.
    """

    fault: str
    tries: int = 0
    survived: int = 0
    where: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    note: str = ""


class Laboratory:
    """A small project to try faults on.

    Args:
        folder: for projects, at first empty.
        seed: of the moments and places at which faults strike.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.draw = random.Random(seed)  # noqa: S311 (no secret)
        self.folder = folder
        self.project = Project(folder / "project")
        self.expected, self.seconds = self.project.undisturbed

    def killed(self, first: float, last: float, trouble: Trouble | None = None) -> None:
        """Start the suite and kill it between these shares of an undisturbed run's time."""
        process = self.project.start(trouble=trouble)
        process.join(self.draw.uniform(first, last) * self.seconds)
        process.kill()
        process.join()

    def left(self) -> Path | None:
        """One of the files that a killed run left in the cache, drawn; None where there are none."""
        files = [path for path in self.project.cache.rglob("*") if path.is_file() and path.stat().st_size]
        return self.draw.choice(files) if files else None

    def settle(self, result: Result, tries: int, what: str, trouble: Trouble | None = None) -> None:
        """Give the command again, undisturbed but for ``trouble``, and compare: were the last ``tries`` survived?"""
        project = self.project
        code = project.run(trouble=trouble)
        tables = project.tables()
        if tables == self.expected and code == project.undisturbed_code:
            result.survived += tries
        else:
            why = "other tables" if tables else "no tables"
            result.lost.append(f"{what}: {why}, exit code {code}: {project.output.strip()[-300:]}")
        left = [path.name for path in project.folder.rglob(".*-*") if path.is_file()]
        if left and not result.lost:
            result.lost.append(f"{what}: left behind {', '.join(left[:3])}")
        project.forget()
