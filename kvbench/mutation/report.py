"""The two tables that say what a run notices, and how often it cries without a cause, in markdown."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kvbench.mutation import replays
from kvbench.mutation.inject import Laboratory, Trial
from kvbench.mutation.replays import Alarms
from kvbench.reference.tolerances import number
from kvbench.results import history
from kvbench.utils.text import Marked, escape, markdown_table

DRAWS = 100  # resampled replays of each kind
TARGET = 0.95  # share of faults that change a result which a run should notice

ABOUT_ALARMS = (
    "A clean run is one in which nothing was changed. It has as many seeds as a default run, or as the row says, and is"
    " compared and judged as a session does it, at a family level of 1%. An upper bound is given only where no two runs"
    " share a seed. *Not confirmed* is an outcome of its own: too few seeds for a recorded verdict."
)
ABOUT_FAULTS = (
    "Each fault is a small patch of kvbench or torch in a run with the default seeds, which the reference has too, so"
    " that each seed is compared with its own recorded run. Configurations are trained one after another until one is"
    " noticed. *By*: the gate farthest outside. *Of what is allowed*: its difference over the allowed one; above 1x the"
    " run fails. *If seeds counted as new*: the same numbers against the spread between seeds. *Must not move*: a"
    " configuration that the fault does not touch, and whether its histories stayed the same bit by bit."
)

logger = logging.getLogger(__name__)


def false_alarms(laboratory: Laboratory, clean_seeds: Sequence[int], rounded: int) -> list[Alarms]:
    """Train clean replays and count their alarms.

    Args:
        laboratory: as `kvbench.mutation.inject.Laboratory`.
        clean_seeds: trained once each; replays take as many of them as a default run has seeds.
        rounded: replays of the default seeds on banks rounded otherwise.
    """
    reference, size = laboratory.reference, len(laboratory.seeds)
    names = history.configurations(reference.histories)
    counted = []
    frames = []
    for seed in range(rounded):
        banks = laboratory.perturbed(seed)
        frames.append(pd.concat([laboratory.train(name, banks) for name in names], ignore_index=True))
        logger.info("clean replay %d of %d on other rounding is trained", seed + 1, rounded)
    same = replays.perturbed(reference, frames, laboratory.rng_fingerprint)
    kind = f"the default run (seeds {_range(laboratory.seeds)}) on other rounding"
    if rounded:
        counted.append(replays.count(kind, reference, same, independent=True))
    replicates = len(history.seeds(reference.replicates))
    if replicates > 1:
        kind = f"half of the reference's {replicates} replicates as the run"
        counted.append(replays.count(kind, reference, replays.halved(reference), independent=False))
    if len(clean_seeds) >= size:
        parts = []
        for name in names:
            parts.append(laboratory.train(name, seeds=clean_seeds))
            logger.info("%d clean seeds of %s are trained", len(clean_seeds), name)
        clean = pd.concat(parts, ignore_index=True)
        among = f"seeds {_range(clean_seeds)}"
        apart = replays.apart(reference, clean, size)
        redrawn = replays.redrawn(reference, clean, size, DRAWS)
        counted += [
            replays.count(f"{size} new seeds, no seed twice, of {among}", reference, apart, independent=True),
            replays.count(
                f"{size} seeds drawn from {among} and the reference's, the rest as reference",
                reference,
                redrawn,
                independent=False,
            ),
        ]
        if len(clean_seeds) > size:
            drawn = replays.drawn(reference, clean, size, DRAWS)
            counted.append(replays.count(f"{size} new seeds drawn from {among}", reference, drawn, independent=False))
    return counted


def alarms_table(counted: Sequence[Alarms]) -> str:
    """The table of false alarms."""
    rows = [
        [
            a.kind,
            str(a.runs),
            str(a.gates),
            str(a.verdicts),
            f"{a.any} ({a.any / a.runs:.1%})" if a.runs else "-",
            f"{a.bound:.1%}" if a.independent and a.runs else "none: runs share seeds",
            f"{a.nearest:.2f}",
            f"{a.unconfirmed:.1f}",
        ]
        for a in counted
    ]
    headers = ["clean runs", "runs", "with a gate moved", "with a verdict changed", "false alarms", "upper 95% bound",
               "nearest gate, of what is allowed", "clauses not confirmed, mean a run"]  # fmt: skip
    return markdown_table(headers, rows)


def detection_table(trials: Sequence[Trial]) -> str:
    """The table of faults that a run can see."""
    rows = []
    for trial in trials:
        if trial.fault.unseen:
            continue
        noticed = "yes" if trial.noticed else Marked("**no**") if trial.changed else "no: no result changed"
        unpaired = "-"
        if trial.stopped:
            place, numbers, excess = "the run stops", trial.stopped, "-"
            unpaired = "yes"
        else:
            strongest = trial.strongest(trial.paired)
            assert strongest is not None
            configuration, outcome = strongest
            place = f"{configuration}: {outcome.gate.name}"
            numbers = f"{number(outcome.obtained)} / {number(outcome.expected)}"
            excess = f"{outcome.excess:.3g}x"
            other = trial.strongest(trial.unpaired)
            assert other is not None
            unpaired = f"{'yes' if trial.noticed_unpaired else 'no'} ({other[1].excess:.2g}x)"
        bystanders = Marked("-")
        if trial.fault.bystanders:
            names = escape(", ".join(trial.fault.bystanders))
            bystanders = Marked(f"{names} {'same' if trial.innocent else '**moved**'}")
        rows.append([trial.fault.id, trial.fault.what, noticed, place, numbers, excess, unpaired, bystanders])
    headers = ["fault", "what goes wrong", "noticed", "by", "obtained / expected", "of what is allowed",
               "if seeds counted as new", "must not move"]  # fmt: skip
    return markdown_table(headers, rows)


def unseen_table(trials: Sequence[Trial]) -> str:
    """The table of faults that no comparison of results can see."""
    rows = [
        [t.fault.id, t.fault.what, "no" if not t.changed else Marked("**yes**"), t.fault.unseen]
        for t in trials
        if t.fault.unseen
    ]
    return markdown_table(["fault", "what goes wrong", "changes a result", "why it can't be seen"], rows)


def summary(trials: Sequence[Trial]) -> str:
    """How many faults were noticed, in a sentence or two."""
    changing = [trial for trial in trials if trial.changed and not trial.fault.unseen]
    noticed = [trial for trial in changing if trial.noticed]
    missed = [trial.fault.id for trial in changing if not trial.noticed]
    new = sum(trial.noticed_unpaired for trial in changing)
    share = len(noticed) / max(1, len(changing))
    text = f"{len(noticed)} of {len(changing)} faults that change a result are noticed by the default run ({share:.0%};"
    text += f" the target is {TARGET:.0%}), {new} would be if its seeds counted as new."
    return text + (f" Missed: {', '.join(missed)}." if missed else "")


def page(
    trials: Sequence[Trial], counted: Sequence[Alarms], laboratory: Laboratory, facts: Mapping[str, Any], command: str
) -> str:
    """The whole page in markdown."""
    reference = laboratory.reference
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    made = escape(f"{facts['date']}, {facts['hardware']}, {versions}")
    seeds = len(history.seeds(reference.histories))
    head = [
        f"# What a run of {laboratory.workload.name} notices",
        f"Made by `{command}` on {made}; default seeds {_range(laboratory.seeds)}, reference of {seeds} seeds.",
    ]
    parts = [*head, "## False alarms", ABOUT_ALARMS, alarms_table(counted)] if counted else head
    if trials:
        parts += ["## Faults", summary(trials), ABOUT_FAULTS, detection_table(trials)]
        if any(trial.fault.unseen for trial in trials):
            parts += ["## Faults that no comparison can see", unseen_table(trials)]
    return "\n\n".join(parts) + "\n"


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]}-{seeds[-1]}"
