"""Rows of histories, and the cells of the tables that they become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def rows(
    name: str, losses: Sequence[float | None], accuracies: Sequence[float], *, seed: int = 0, **metrics: float
) -> list[dict[str, Any]]:
    """Rows of a history, an epoch each."""
    return [
        {
            "configuration": name,
            "seed": seed,
            "epoch": epoch,
            "train_loss": loss,
            "val_accuracy": accuracy,
            **metrics,
        }
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    ]


def cells(markdown: str) -> list[list[str]]:
    """Rows of the first markdown table in a text, as lists of stripped cells, without the line of dashes."""
    lines = markdown[markdown.index("|") :].partition("\n\n")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]
