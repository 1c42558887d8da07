"""Where to look: what the configurations that moved have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.claims import MEMORY, SIMPLE

GROUPS: Mapping[str, tuple[str, ...]] = {
    "the memories": MEMORY,
    "the linear heads": SIMPLE,
    "GELU": ("Model3", "Model4", "Model7"),
    "ReLU": ("Model5", "Model6"),
    "trained memories": ("Model3", "Model5", "Model7"),
    "frozen memories": ("Model4", "Model6"),
    "what reads more than the last tap": ("Model2", *MEMORY),
    "what reads the third tap from the end, and the sums of memories": MEMORY[:-1],
}
SHARED = "what all share: data, teacher, taps, loss, optimiser, batches, or a new version of torch"


def diagnose(moved: Mapping[str, Collection[str]], compared: Collection[str]) -> str:
    """Say in a sentence what to look at first; empty if nothing moved.

    Args:
        moved: configurations with a failed gate, and the metrics of their failed gates.
        compared: all configurations that were compared.
    """
    if not moved:
        return ""
    metrics = {metric for failed in moved.values() for metric in failed}
    training = "train_loss" in metrics
    told = f"{len(moved)} of {len(compared)} configurations moved. Look first at {_common(set(moved), set(compared))}."
    if not training:
        told += " No training loss moved, only what validation measures: look at validation, its images and labels."
    elif metrics == {"train_loss"}:
        told += " Only training losses moved: look at how the loss is computed and reported."
    return told


def _common(moved: set[str], compared: set[str]) -> str:
    students = {name.removeprefix(SCHEDULED) for name in moved}
    if len(students) == 1:
        return f"{students.pop()}, the one student that moved"
    if moved == compared:
        return SHARED
    scheduled = {name for name in compared if name.startswith(SCHEDULED)}
    if moved <= scheduled:
        return "the schedule: only configurations with StepLR moved"
    if moved == compared - scheduled:
        return "the constant learning rate: only configurations without StepLR moved"
    for words, group in GROUPS.items():
        if moved == {name for name in compared if name.removeprefix(SCHEDULED) in group}:
            return f"{words}: just these moved"
    return f"what {', '.join(sorted(moved))} have in common"
