"""Where to look: what the configurations that drifted have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.kv_memory import GROUPS

SHARED = "what all share: data, teacher, taps, loss, optimiser, batches, or a new version of torch"


def diagnose(drifted: Mapping[str, Collection[str]], compared: Collection[str]) -> str:
    """Say in a sentence what to look at first; empty if nothing drifted.

    Args:
        drifted: configurations that left a tolerance, with `kvbench.reference.compare.Comparison.drifted` of each.
        compared: all configurations that were compared.

    Example:
        >>> diagnose({"Model5": ["train_loss"], "Model6": ["train_loss"]}, [f"Model{n}" for n in range(1, 8)])
        '2 of 7 configurations drifted. Look first at ReLU: just these drifted. Only training losses drifted: ...'
    """
    if not drifted:
        return ""
    metrics = {metric for failed in drifted.values() for metric in failed}
    common = _common(set(drifted), set(compared))
    text = f"{len(drifted)} of {len(compared)} configurations drifted. Look first at {common}."
    if "train_loss" not in metrics:
        text += " No training loss drifted, only what validation measures: look at validation, its images and labels."
    elif metrics == {"train_loss"}:
        text += " Only training losses drifted: look at how the loss is computed and reported."
    return text


def _common(drifted: set[str], compared: set[str]) -> str:
    students = {name.removeprefix(SCHEDULED) for name in drifted}
    if len(students) == 1:
        return f"{students.pop()}, the one student that drifted"
    if drifted == compared:
        return SHARED
    scheduled = {name for name in compared if name.startswith(SCHEDULED)}
    if drifted <= scheduled:
        return "the schedule: only configurations with StepLR drifted"
    if drifted == compared - scheduled:
        return "the constant learning rate: only configurations without StepLR drifted"
    for words, group in GROUPS.items():
        if drifted == {name for name in compared if name.removeprefix(SCHEDULED) in group}:
            return f"{words}: just these drifted"
    return f"what {', '.join(sorted(drifted))} have in common"
