"""Suites that are interrupted in-process, and what they left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvbench.core.run import Run
from tests.support.project import Project
from tests.support.small import EPOCHS

TWO = ("-k", "test_configuration and (Model1 or Model2) and not lr_")


def timeless(path: Path) -> list[dict[str, Any]]:
    """The histories of a saved run, without the seconds."""
    rows = [row for _, record in sorted(records(path).items()) for row in record["history"]]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def records(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a saved run, those included that nothing was timed of."""
    content = json.loads(path.read_text())
    found = [one["extra_info"]["kvbench"] for one in content["benchmarks"]] + content["kvbench"].get("not_timed", [])
    return {record["configuration"]: record for record in found}


def states(project: Path) -> list[str]:
    """The states in the cache: folder and file, without digests."""
    found = (project / ".kvbench").glob("checkpoints/*/*/*.safetensors")
    return sorted(f"{path.parent.name.rpartition('-')[0]}/{path.name}" for path in found)


class Interruption:
    """Counts epochs trained, and interrupts after some."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.trained, self.after = 0, 10**9
        plain = Run.chunks

        def chunks(run: Run) -> Iterator[None]:
            if run.done:
                return
            if self.trained >= self.after:
                raise KeyboardInterrupt
            self.trained += 1
            yield from plain(run)

        patch.setattr(Run, "chunks", chunks)


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    return Interruption(monkeypatch)


@pytest.fixture
def interrupted(run: Project, pytester: pytest.Pytester, interruption: Interruption) -> Project:
    """A project in which Model1 is finished and Model2 was interrupted in its third epoch."""
    interruption.after = 2 * EPOCHS + 2 * 2
    result = run(*TWO)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["kvbench: stopped by Ctrl-C; the same command goes on with what 2 trainings left."])
    kept = ["Model1/seed-0", "Model1/seed-1", "Model2/seed-0", "Model2/seed-1"]
    assert states(pytester.path) == [f"{name}.safetensors" for name in kept]
    interruption.trained, interruption.after = 0, 10**9
    return run
