"""What an interrupted or disturbed suite meets when it goes on: damaged states, other suites, full disks and memory."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from kvbench.core.run import Run
from tests.support.banks import tmpfs
from tests.support.project import Project, counts, said, shift_losses
from tests.support.resume import TWO, Interruption, states, timeless
from tests.support.small import EPOCHS


def test_a_damaged_state_is_named_and_that_seed_starts_over(
    interrupted: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    (path,) = (pytester.path / ".kvbench").glob("checkpoints/*/Model2-*/seed-1.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    result = interrupted(*TWO, "--benchmark-json=resumed.json")
    counts(result, passed=2, failed=0)
    message = "*Model2-*seed-1.safetensors cannot be used: *It is removed, and seed 1 of Model2 starts over."
    result.stderr.fnmatch_lines([f"Warning: {message}"])
    assert re.search(r"NOTED: \S*Model2-\S*seed-1.safetensors cannot be used: ", said(result))
    assert interruption.trained == 1 + EPOCHS
    interrupted(*TWO, "--benchmark-json=undisturbed.json")
    assert timeless(pytester.path / "resumed.json") == timeless(pytester.path / "undisturbed.json")


def test_after_x_what_was_trained_stays(run: Project, pytester: pytest.Pytester, interruption: Interruption) -> None:
    path = pytester.path / "expected" / "small" / "histories.csv"
    whole = path.read_text()
    shift_losses(pytester.path, "Model1", 20)
    result = run(*TWO, "-x")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(
        ["UNFINISHED: the same command goes on with what 1 training left, or anew with *fresh."]
    )
    path.write_text(whole)
    interruption.trained = 0
    counts(run(*TWO), passed=2)
    assert interruption.trained == 2 * EPOCHS, "Model2"
    assert states(pytester.path) == []


def test_a_diverging_training_keeps_the_others_and_ends_in_the_same_way_again(
    run: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Run.step

    def diverging(self: Run, batch: Any) -> Any:
        odd = self.configuration.id == "Model2" and self.epochs_done == 1
        return step(self, batch) * (float("inf") if odd else 1)

    monkeypatch.setattr(Run, "step", diverging)
    for _ in range(2):
        result = run(*TWO, "--benchmark-json=run.json")
        counts(result, passed=1, failed=1)
        result.stdout.fnmatch_lines(["*training loss of Model2 (seed ?) is inf in epoch 2, step 1*"])
        assert states(pytester.path) == [], "it came to its end"
        (record,) = json.loads((pytester.path / "run.json").read_text())["kvbench"]["not_timed"]
        assert {row["epoch"] for row in record["history"]} == {1}


def test_memory_that_runs_out_is_told_and_the_rest_is_reused(
    run: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    plain = Run.step

    def short(self: Run, rows: torch.Tensor) -> torch.Tensor:
        if self.configuration.id == "Model2" and self.epochs_done == 1:
            torch.empty(2**60)  # more than any machine has
        return plain(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", short)
        result = run(*TWO)
    counts(result, passed=1, failed=1)
    result.stdout.fnmatch_lines(["*not enough memory for Model2 with 2 seeds*--kvbench-seeds*"])
    interruption.trained = 0
    counts(run(*TWO), passed=2)
    assert interruption.trained == 2 * (EPOCHS - 1)


def test_memory_that_runs_out_for_the_seeds_is_told(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "__init__", lambda *_: torch.empty(2**60))
    result = run(*TWO)
    counts(result, passed=0, errors=2)
    result.stdout.fnmatch_lines(["There is not enough memory for Model1 with 2 seeds*--kvbench-seeds*"])


def test_tables_that_have_no_place_are_told_before_anything_is_trained(
    run: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    (pytester.path / "file").touch()
    result = run(*TWO, "--kvbench-report", "file/tables.md")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*Cannot write to the folder *file: Not a directory. *with --kvbench-report and*"])
    assert interruption.trained == 0


def test_a_full_disk_costs_the_states_not_the_run(run: Project, pytester: pytest.Pytester) -> None:
    (pytester.path / ".kvbench").mkdir(exist_ok=True)
    with tmpfs(pytester.path / ".kvbench" / "checkpoints", "64k"):
        result = run(*TWO)
    counts(result, passed=2, failed=0)
    assert re.search("NOTED: Model1 is trained without keeping its state: .*No space left on device.", said(result))
