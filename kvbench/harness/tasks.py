"""Work as idempotent tasks whose results are files in the cache: "train configuration c with seeds s".

Any number of processes may do them, in any order, at once and again: what is done is found, what is missing is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from kvbench.core.recipe import Configuration
from kvbench.core.trainer import MORE_MEMORY
from kvbench.harness.epochs import Epochs
from kvbench.harness.kept import Kept, Rows, keeps
from kvbench.harness.resume import Suite
from kvbench.harness.setup import Banks, begin
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.oom import enough_memory
from kvbench.utils.progress import OnProgress
from kvbench.utils.shares import Share

if TYPE_CHECKING:
    from kvbench.harness.session import Session

TEST = "kvbench"  # names the states of a task's trainings, as its own name does those of a test


def train(
    study: Study,
    row: Configuration,
    seeds: Sequence[int],
    banks: Banks | None,
    device: torch.device,
    suite: Suite,
    kept: Kept | None,
    epochs: Epochs,
    *,
    stacked: bool = False,
) -> dict[int, Rows | str]:
    """Train seeds of a configuration to their end, going on where a killed process left them.

    Args:
        study: whose configuration it is.
        row: the configuration.
        seeds: which; none that is kept.
        banks: both splits; None for a study that trains by itself.
        device: where to train.
        suite: where states of what is not complete lie.
        kept: where results are kept; None: nowhere, nor states.
        epochs: counts those that are done.
        stacked: whether seeds are trained as one model, where that is possible.

    Returns:
        Rows of each seed, or the sentence why it has none: it diverged, or stopped with one that did.

    Raises:
        UserError: the configuration cannot be trained.
    """
    with enough_memory(f"{row.id} with {len(seeds)} seeds", MORE_MEMORY):
        training = begin(study, row, banks, seeds, device, stacked=stacked)
    states = suite.states(training, TEST) if kept else None
    epochs.follow(training, states)
    problem = ""
    try:
        training.finish()
    except UserError as error:
        if not any(run.diverged for run in training.runs):
            raise
        problem = str(error)
    whole = {run.seed: run.history for run in training.runs if len(run.history) == row.recipe.epochs}
    # Others that are not whole stopped with one that diverged, and might do without it.
    lost = [run.seed for run in training.runs if run.diverged]
    results: dict[int, Rows | str] = {**whole, **dict.fromkeys(lost, problem)}
    if kept is not None and states is not None:
        with best_effort(f"keep the results of {row.id}"):
            kept.write(results)
            states.remove()
    return {seed: results.get(seed, problem) for seed in seeds}


class Done(NamedTuple):
    """What a share of a session's trainings came to, in trainings of one seed."""

    trained: int  # now
    found: int  # trained before
    problems: list[str]  # a sentence for each training that has no result, each once


def units(session: Session, rows: Sequence[Configuration]) -> list[tuple[Configuration, list[int]]]:
    """What is trained in one place: a seed of a configuration, or all of its seeds where they are one model."""
    together = [list(session.seeds)] if session.stacked else [[seed] for seed in session.seeds]
    return [(row, seeds) for row in rows for seeds in together]


def train_share(session: Session, rows: Sequence[Configuration], share: Share, on_progress: OnProgress) -> Done:
    """Train a share of the configurations and seeds of a session, which then finds them.

    Args:
        session: not begun.
        rows: its configurations.
        share: which of them; all shares together are all seeds of all configurations.
        on_progress: is told of epochs that are done.

    Raises:
        UserError: the banks cannot be opened, or nothing can be kept.
    """
    study, device = session.experiment.study, session.settings.device
    if not keeps(study):
        raise UserError(f"The code of {study.name} is in no file, so nothing can be kept: write it into a module.")
    suite = Suite(session.values["cache"], session.title, session.surroundings)
    mine = share.of(units(session, rows))
    problems: dict[str, None] = {}
    trained = found = ahead = 0
    epochs = Epochs(sum(row.recipe.epochs * len(seeds) for row, seeds in mine), on_progress)
    for row in dict.fromkeys(row for row, _ in mine):
        kept = session.kept(row)
        results = kept.read()
        seeds = [seed for one, some in mine if one is row for seed in some]
        missing = [seed for seed in seeds if seed not in results]
        ahead += len(seeds) * row.recipe.epochs
        epochs.done = ahead - len(missing) * row.recipe.epochs
        if missing:
            try:
                results |= train(
                    study, row, missing, session.banks, device, suite, kept, epochs, stacked=session.stacked
                )
            except UserError as error:
                results |= dict.fromkeys(missing, str(error))
        lost = [seed for seed in seeds if isinstance(results[seed], str)]
        problems |= dict.fromkeys(str(results[seed]) for seed in lost)
        trained += len({*missing} - {*lost})
        found += len({*seeds} - {*missing, *lost})
    return Done(trained, found, list(problems))
