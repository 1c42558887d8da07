"""The page of `kvbench alarms`, in markdown: how often clean runs alarm, and findings are judged wrongly."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kvbench.mutation import small_study
from kvbench.mutation.clean_runs import REFERENCE_SEEDS, REPLICATES, CleanRun, alarms_by_reference
from kvbench.mutation.known_truth import JUDGEMENTS, RUN_SEEDS, Counted
from kvbench.mutation.replays import FalseAlarms
from kvbench.mutation.report import alarms_list
from kvbench.stats.intervals import upper_bound
from kvbench.utils.text import escape, markdown_table

CONFIGURATIONS = len(small_study.EXPERIMENT.design.names)
ABOUT_RUNS = (
    f"A clean run is one in which nothing was changed: {RUN_SEEDS} seeds of the {CONFIGURATIONS} configurations of a"
    " small study (the source's students with narrow memories, on a drawn bank), trained, recorded, compared and judged"
    " by the code of a session; only pytest is left out. A run alarms if that session fails. Runs are dealt out in turn"
    f" to references of {REFERENCE_SEEDS} seeds and {REPLICATES} replicates each, as one reference has luck of its own;"
    " no two new runs share a seed. *Bound*: upper 95% bound (Clopper & Pearson) of these references' mean rate."
)
ABOUT_SPLITS = "Seeds of a recorded reference, split at random: these runs share seeds, so their rate has no bound."
ABOUT_FINDINGS = (
    f"The findings of a run, {JUDGEMENTS} unless it says otherwise, judged together as a run judges them, on margins of"
    f" {RUN_SEEDS} seeds that are drawn so that the truth is known, from normals unless it says otherwise. *Wrong*:"
    " runs in which any finding is said to hold though a clause of it is not true, or a clause to fail that is not."
    " Both sides are wrong of what has no effect at all, so that up to 2% may be, not 1%."
    " *Decided*: findings that have a truth and came out so. A borderline effect is seen with a chance of one half at"
    " the first level."
)


def runs_table(outcomes: Sequence[CleanRun]) -> str:
    """A column for each kind of clean run."""
    kinds = {kind: [one for one in outcomes if one.kind == kind] for kind in dict.fromkeys(o.kind for o in outcomes)}
    counts = [sum(one.alarm for one in mine) for mine in kinds.values()]
    each = [alarms_by_reference(mine) for mine in kinds.values()]
    ways = {"by a tolerance": "tolerances", "by all configurations together": "together", "by a verdict": "verdicts"}
    rates = [(count, len(mine)) for count, mine in zip(counts, kinds.values(), strict=True)]
    rows = [
        ["runs", *(str(len(mine)) for mine in kinds.values())],
        ["references", *(str(len(counted)) for counted in each)],
        ["runs that alarm", *map(str, counts)],
        *([way, *(str(sum(getattr(one, name) > 0 for one in mine)) for mine in kinds.values())]
          for way, name in ways.items()),
        ["rate", *(f"{count / runs:.2%}" for count, runs in rates)],
        ["bound", *(f"{upper_bound(*one):.2%}" for one in rates)],
        ["most alarms of one reference", *(str(max(counted.values())) for counted in each)],
        ["findings a run that its seeds are too few to confirm",
         *(f"{sum(one.unsettled for one in mine) / len(mine):.1f}" for mine in kinds.values())],
    ]  # fmt: skip
    return markdown_table(["", *kinds], rows)


def findings_table(counted: Sequence[Counted]) -> str:
    """A row for each world."""
    rows = []
    for one in counted:
        decided = f"{one.decided / one.decidable:.1%}" if one.decidable else "-"
        rate, bound = one.wrong / one.runs, upper_bound(one.wrong, one.runs)
        rows.append([one.name, str(one.runs), str(one.wrong), f"{rate:.2%}", f"{bound:.2%}", decided])
    return markdown_table(["what is true", "runs", "wrong", "rate", "bound", "decided"], rows)


def page(
    outcomes: Sequence[CleanRun],
    counted: Sequence[Counted],
    splits: Sequence[FalseAlarms],
    facts: Mapping[str, Any],
    command: str,
) -> str:
    """The whole page, in lines of at most 120 characters outside its tables."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        "# How often a run is wrong",
        f"Made by `{command}` on {escape(str(facts['date']))}, {escape(str(facts['hardware']))}, {escape(versions)}.",
    ]
    if outcomes:
        parts += ["## Clean runs", ABOUT_RUNS, runs_table(outcomes)]
    if splits:
        parts += ["## Recorded seeds, held out", ABOUT_SPLITS, alarms_list(splits)]
    if counted:
        parts += ["## Findings whose truth is known", ABOUT_FINDINGS, findings_table(counted)]
    wrap = textwrap.TextWrapper(118, break_long_words=False, break_on_hyphens=False).fill
    return "\n\n".join(part if part[0] in "#|-" else wrap(part) for part in parts) + "\n"
