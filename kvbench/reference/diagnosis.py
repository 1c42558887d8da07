"""Where to look: what the configurations that drifted have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvbench.findings.design import Design

SHARED = "what all share: data, teacher, taps, loss, optimiser, batches, or a new version of torch"


def diagnose(drifted: Mapping[str, Collection[str]], compared: Collection[str], design: Design) -> str:
    """Say in a sentence what to look at first; empty if nothing drifted.

    Args:
        drifted: configurations that left a tolerance, with `kvbench.reference.compare.Comparison.drifted` of each.
        compared: all configurations that were compared.
        design: the study's: its recipes, groups and tags.

    Example:
        >>> names = ["linear", "mlp", "conv", "attention"]
        >>> design = Design("mine", {"Adam": dict(zip(names, names))}, {"ReLU": ("mlp", "conv")})
        >>> diagnose({"mlp": ["train_loss"], "conv": ["train_loss"]}, names, design)
        '2 of 4 configurations drifted. Look first at ReLU: its students drifted, and no others. Only training ...'
    """
    if not drifted:
        return ""
    metrics = {metric for failed in drifted.values() for metric in failed}
    common = _common(set(drifted), set(compared), design)
    text = f"{len(drifted)} of {len(compared)} configurations drifted. Look first at {common}."
    if "train_loss" not in metrics:
        text += " No training loss drifted, only what validation measures: look at validation, its images and labels."
    elif metrics == {"train_loss"}:
        text += " Only training losses drifted: look at how the loss is computed and reported."
    return text


def _common(drifted: set[str], compared: set[str], design: Design) -> str:
    students = {design.find(name)[1] for name in drifted}
    if len(students) == 1:
        return f"{students.pop()}, the one student that drifted"
    if drifted == compared:
        return SHARED
    for group, members in design.groups.items():
        if drifted == {name for name in compared if design.find(name)[1] in members}:
            return f"{group}: its students drifted, and no others"
    recipes, others = ({design.find(name)[0] for name in names} for names in (drifted, compared - drifted))
    if len(recipes) == 1 and others - recipes:
        return f"the recipe {recipes.pop()}: only its configurations drifted"
    return f"what {', '.join(sorted(drifted))} have in common"
