"""The page of `kvbench detect`, in markdown: false alarms of clean runs, and which injected faults a run detects."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kvbench.mutation.injector import FaultInjector, FaultResult
from kvbench.mutation.replays import FalseAlarms, seed_range
from kvbench.reference.drift import by_excess
from kvbench.results import history
from kvbench.utils.text import Marked, escape, item, markdown_table, number

TARGET = 0.97  # share of faults that change a result which a run should detect
TARGET_AS_NEW = 0.90  # the same of a run with seeds that the reference lacks

ABOUT_ALARMS = (
    "A clean run is one in which nothing was changed. It has as many seeds as a default run, and is compared and judged"
    " as a session does it, at a family-wise error rate of 1%. An upper bound is given only where no two runs share a"
    " seed. *Excess*: the difference over the allowed one; above 1 the run fails. *Not confirmed*: clauses whose"
    " recorded verdict these seeds are too few to confirm, which is no alarm."
)
ABOUT_VERDICTS = (
    "How many runs give a finding its recorded verdict from their own seeds alone, of which a default run has fewer"
    " than the reference. A verdict that contradicts the recorded one is among the false alarms above."
)
ABOUT_FAULTS = (
    "Each fault is a small patch of kvbench or torch in a run with the default seeds. The reference has these seeds,"
    " too, so each is compared with its own recorded run; and once more, as if they were new, with a reference that"
    " lacks them. First what no seed decides is compared with what is recorded: the features that a student is given,"
    " and for fixed numbers its outputs, its gradients and its optimiser's steps. Where all of that is the same,"
    " configurations are trained one after another until both detect the fault, or all that it can touch are trained."
)
ABOUT_DETECTION = (
    "*Tolerance*: the one with the largest excess. *Excess*: the difference over the allowed one; above 1x the run"
    " fails, **bold** where the fault is missed. *As new seeds*: the largest excess against a reference without"
    " these seeds, so that the spread between seeds is what is allowed; *together*: of all configurations as one."
)


def alarms_list(counted: Sequence[FalseAlarms]) -> str:
    """The false alarms of each kind of clean run, as a list."""
    return "\n".join(map(_alarms, counted))


def _alarms(a: FalseAlarms) -> str:
    bound = f"{a.bound:.1%}" if a.independent and a.runs else "none: runs share seeds"
    runs, alarms = ("run" if a.runs == 1 else "runs"), ("alarm" if a.any == 1 else "alarms")
    return item(
        f"{a.runs} {runs}, {a.kind}: {a.any} false {alarms} ({a.drifted} by a tolerance,"
        f" {a.together} by all configurations together, {a.verdicts} by a verdict); upper 95% bound of the rate"
        f" {bound}; largest excess {a.largest_excess:.2f}; {a.unconfirmed:.1f} clauses per run not confirmed"
    )


def verdicts_table(counted: FalseAlarms) -> str:
    """How many runs of a kind judge a finding as it is recorded, from their own seeds alone."""
    rows = [[*finding, f"{times} of {counted.runs}"] for *finding, times in counted.as_recorded]
    return markdown_table(["finding", "recipe", "recorded", "judged so"], rows)


def faults_table(results: Sequence[FaultResult]) -> str:
    """What each fault is."""
    return markdown_table(["fault", "what goes wrong"], [[r.fault.id, r.fault.description] for r in results])


def detection_table(results: Sequence[FaultResult]) -> str:
    """By which tolerance each fault is detected, and how clearly."""
    rows = []
    for result in results:
        if result.error:
            rows.append([result.fault.id, "the run stops", "-", "-", "-"])
            continue
        if drifted := [one for one in by_excess((*result.features, *result.probes)) if one.failed]:
            far = drifted[-1]
            what, excess = ("given " if far in result.features else "") + far.column, _times(far.excess, ".3g")
            rows.append([result.fault.id, what, f"{far.cells[0]} away", excess, excess])
            continue
        paired, unpaired = result.largest_deviation(result.paired), result.largest_deviation(result.unpaired)
        assert paired is not None
        assert unpaired is not None
        configuration, deviation = paired
        name = "no result changed" if not result.changed else f"{configuration}: {deviation.tolerance.name}"
        excess, as_new = _times(deviation.excess, ".3g"), _times(result.excess_as_new, ".2g")
        if result.excess_as_new != unpaired[1].excess:
            as_new += " together"
        rows.append([
            result.fault.id,
            name.replace(" epoch", "").replace("whole ", ""),
            " / ".join(number(side, missing="no number") for side in (deviation.obtained, deviation.expected)),
            excess if result.detected or not result.changed else Marked(f"**{excess}**"),
            as_new if result.detected_unpaired or not result.changed else Marked(f"**{as_new}**"),
        ])  # fmt: skip
    return markdown_table(["fault", "tolerance", "obtained / expected", "excess", "as new seeds"], rows)


def _times(excess: float, spec: str) -> str:
    return "no number" if math.isnan(excess) else f"{number(excess, spec)}x"


def controls(results: Sequence[FaultResult]) -> str:
    """Whether configurations that a fault must not change stayed the same."""
    tried = [result for result in results if result.fault.controls]
    changed = [result.fault.id for result in tried if not result.controls_unchanged]
    text = f"Controls, configurations that a fault must not change: tried for {len(tried)} faults,"
    return text + (f" changed by {', '.join(changed)}." if changed else " bitwise the same in all of them.")


def errors(results: Sequence[FaultResult]) -> str:
    """The sentences with which runs stopped, as a list."""
    return "\n".join(item(f"{result.fault.id}: {result.error}") for result in results if result.error)


def left_out(results: Sequence[FaultResult]) -> str:
    """Faults that have nothing to act on here, and why, as a list."""
    return "\n".join(item(f"{result.fault.id}: {result.cannot}") for result in results if result.cannot)


def equivalent_table(results: Sequence[FaultResult]) -> str:
    """Faults that change no result that is compared, and why."""
    rows = [
        [result.fault.id, "no" if not result.changed else Marked("**yes**"), result.fault.equivalent]
        for result in results
    ]
    return markdown_table(["fault", "changes a result", "why no comparison can see it"], rows)


def summary(results: Sequence[FaultResult]) -> str:
    """How many faults are detected, in a sentence or two."""
    changing = [result for result in results if result.changed and not result.fault.equivalent]
    missed = [result.fault.id for result in changing if not result.detected]
    detected = len(changing) - len(missed)
    new = sum(result.detected_unpaired for result in changing)
    total = max(1, len(changing))
    text = f"{detected} of {len(changing)} faults that change a result are detected by the default run"
    text += f" ({detected / total:.0%}; the target is {TARGET:.0%}), {new} by as many new seeds"
    text += f" ({new / total:.0%}; the target is {TARGET_AS_NEW:.0%})."
    text += f" Missed: {', '.join(missed)}." if missed else ""
    new_missed = [r.fault.id for r in changing if r.detected and not r.detected_unpaired]
    return text + (f" Missed by new seeds alone: {', '.join(new_missed)}." if new_missed else "")


def page(
    results: Sequence[FaultResult],
    counted: Sequence[FalseAlarms],
    injector: FaultInjector,
    facts: Mapping[str, Any],
    command: str,
) -> str:
    """The whole page, in lines of at most 120 characters."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    made_on = escape(f"{facts['date']}, {facts['hardware']}, {versions}")
    seeds = len(history.seeds(injector.reference.histories))
    parts = [
        f"# What a run of {injector.experiment.name} detects",
        f"Made by `{command}` on {made_on}; default seeds {seed_range(injector.seeds)}, reference of {seeds} seeds.",
    ]
    if counted:
        parts += ["## False alarms", ABOUT_ALARMS, alarms_list(counted)]
    if apart := [one for one in counted if one.independent and one.runs]:
        parts += ["## Verdicts of clean runs", ABOUT_VERDICTS]
        for one in apart:
            parts += [f"{one.kind[0].upper()}{one.kind[1:]}:", verdicts_table(one)]
    acting = [result for result in results if not result.cannot]
    seen = [result for result in acting if not result.fault.equivalent]
    if seen:
        parts += ["## Faults", summary(seen), ABOUT_FAULTS, faults_table(seen)]
        parts += ["## Detection", ABOUT_DETECTION, detection_table(seen), controls(seen)]
    if stopped := errors(seen):
        parts += ["Runs that stop:", stopped]
    if without := left_out(results):
        parts += ["Left out, as they have nothing to act on here:", without]
    if equivalent := [result for result in acting if result.fault.equivalent]:
        parts += ["## Equivalent faults", faults_table(equivalent), equivalent_table(equivalent)]
    wrap = textwrap.TextWrapper(118, break_long_words=False, break_on_hyphens=False).fill
    return "\n\n".join(part if part[0] in "#|-" else wrap(part) for part in parts) + "\n"
