"""The tasks of a command, in stages, for processes that each do shares of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kvbench.harness.options import OPTIONS
from kvbench.harness.projects import chosen, collected, experiment, flags, of_this_project
from kvbench.utils.errors import UserError
from kvbench.utils.progress import ignore
from kvbench.utils.shares import Share


@dataclass(frozen=True)
class Stage:
    """Some tasks that may be done in any order: what they are called, how many there are, and what does a share."""

    what: str
    count: int
    do: Callable[[Share], object]


def prepare(command: str, folder: str, each: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[Stage]:
    """Load what a command works on; each stage needs what those before it leave.

    Args:
        command: ``extract``, ``train`` or ``sweep``.
        folder: where it was called.
        each: its options, by name; of ``extract`` for each teacher.
        names: the configurations to train or the findings to map; empty: all.
    """
    from kvbench.harness.setup import Settings, fill_banks
    from kvbench.harness.sweep import plan
    from kvbench.harness.tasks import train_share, units
    from kvbench.studies.grid import Grid, read_grid

    def filling(*every: Settings) -> Stage:
        stores = [settings.stores()[0] for settings in every]
        count = sum(len(store.parts) for store in stores[0].values())
        return Stage("teacher pass", count, lambda share: fill_banks(stores, share, every[0].device))

    os.chdir(folder)
    if command == "train":
        session = collected(flags(each[0]))
        rows = [row for row in session.rows if row.id in names or not names]

        def train(share: Share) -> None:
            if problems := train_share(session, rows, share, ignore).problems:
                raise UserError(" ".join(problems))

        passes = [filling(session.settings)] if session.experiment.study.train is None else []
        return [*passes, Stage("trainings", len(units(session, rows)), train)]
    project = of_this_project()
    values = [{row.name: row.parse(texts.get(row.name, row.default)) for row in OPTIONS} for texts in each]
    if command == "extract":
        return [filling(*(Settings.of(one, experiment(one, project).images) for one in values))]
    grid = Grid(*chosen(values[0], project), read_grid(values[0]["set"]))
    work = plan(grid, values[0]["seeds"] or 0, names, ignore, values[0])
    passes = []
    for settings in work.settings:
        with suppress(UserError):  # whoever trains its cells says so
            passes.append(filling(settings))
    return [*passes, Stage("trainings", len(work.tasks), work.do)]
