"""The suite run in a project of its own, and what is asked of the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Project = Callable[..., pytest.RunResult]  # runs the suite in a project of its own


def counts(result: pytest.RunResult, **expected: int) -> None:
    """Check numbers of outcomes; those not named may be anything."""
    outcomes = result.parseoutcomes()
    assert {name: outcomes.get(name, 0) for name in expected} == expected, outcomes


def said(result: pytest.RunResult) -> str:
    """What the session printed to stdout as if in one line, however it was folded."""
    return " ".join(result.stdout.str().split())


def shift_losses(project: Path, configuration: str, factor: float) -> None:
    """Multiply every recorded training loss of a configuration."""
    path = project / "expected" / "small" / "histories.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for cells in lines:
        if cells[0] == configuration:
            cells[3] = f"{float(cells[3]) * factor:.6g}"
    path.write_text("\n".join(",".join(cells) for cells in lines) + "\n")
