"""States of unfinished trainings: restored, kept, shared by sessions at the same time, removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness import checkpoint
from kvbench.harness.record import surroundings
from kvbench.harness.resume import DIRECTORY, States, Suite, clear, digest, remove_old
from tests.support.trainer import SCHEDULED, config, history, random_bank

Begin = Callable[..., tuple[Training, States]]
BANKS = random_bank(100), random_bank(40, seed=1)


def training(name: str = "Model2") -> Training:
    replicates = [Run(config(name), BANKS[0].perturbed(1), BANKS[1].perturbed(2), 0)]
    return Training(config(name), *BANKS, [0, 1], replicates)


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    def begin(suite: Suite | None = None, name: str = "Model2", test: str = "a test", **options: Any) -> Any:
        made = training(name)
        states = (suite or Suite(tmp_path, "small", {"code": "1"})).states(made, test, **options)
        made.on_epoch = states.save
        return made, states

    return begin


def train(made: Training, epochs: int) -> None:
    for _ in range(epochs):
        made.epoch()
        made.evaluate()


def test_a_later_session_goes_on_with_seeds_and_replicates(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kvbench")
    first, states = begin()
    train(first, 2)
    names = ["replicate-0", "seed-0", "seed-1"]
    assert sorted(path.name for path in states.directory.iterdir()) == [f"{name}.safetensors" for name in names]
    later, _ = begin()
    assert (later.reused, later.epochs_left, later.replicates[0].epochs_done) == ([2, 2], 1, 2)
    whole = training()
    assert history(later) == history(whole)
    strip = [[{**row, "seconds": 0} for row in one.replicate_history] for one in (later, whole)]
    assert strip[0] == strip[1]
    again, _ = begin()
    assert again.epochs_left == 0
    assert caplog.messages == ["Model2 goes on at epoch 3.", "Model2 is reused, an earlier run finished it."]
    assert again.notes == []


@pytest.mark.parametrize("other", [{"name": "Model1"}, {"test": "another"}, {"suite": "facts"}])
def test_what_decides_the_numbers_decides_what_is_reused(begin: Begin, other: dict[str, Any], tmp_path: Path) -> None:
    first, _ = begin()
    train(first, 2)
    if "suite" in other:
        other = {"suite": Suite(tmp_path, "small", {"code": "2"})}
    assert begin(**other)[0].epochs_left == 3
    assert begin()[0].epochs_left == 1


def test_sessions_at_the_same_time_share_states_and_end_in_the_same_histories(begin: Begin, tmp_path: Path) -> None:
    whole = history(training())
    first, states = begin()
    train(first, 1)
    second, others = begin()
    assert second.epochs_left == 2
    train(second, 1)
    train(first, 1)
    assert history(second) == whole
    clear([others.directory])
    third, _ = begin()
    assert third.epochs_left == 3, "it is removed"
    train(first, 1)
    assert history(first) == whole
    assert len(list(states.directory.iterdir())) == 3, "what removes states does not stop who keeps them"
    clear([states.directory])
    assert not (tmp_path / DIRECTORY).exists()


def test_a_test_that_runs_again_in_a_session_and_a_fresh_one_start_over(begin: Begin, tmp_path: Path) -> None:
    suite = Suite(tmp_path, "small", {"code": "1"})
    first, states = begin(suite)
    train(first, 1)
    assert suite.kept == [states.directory]
    assert begin(suite)[0].epochs_left == 3
    assert suite.kept == []
    train(begin()[0], 1)
    assert begin(fresh=True)[0].epochs_left == 3
    assert begin()[0].epochs_left == 3


def test_a_stack_goes_on_bit_by_bit_though_one_of_its_seeds_is_behind(tmp_path: Path) -> None:
    def begin() -> tuple[Training, States]:
        made = Training(config("Model4", **SCHEDULED), *BANKS, [0, 1], stacked=True)
        return made, Suite(tmp_path, "small", {}).states(made, "a test")

    whole, _ = begin()
    rows = history(whole)
    first, states = begin()
    first.on_epoch = lambda run: states.save(run) if (run.seed, run.epochs_done) != (1, 2) else None
    train(first, 2)
    later, _ = begin()
    assert later.reused == [2, 1]
    assert history(later) == rows
    for run, other in zip(later.runs, whole.runs, strict=True):
        assert all(map(torch.equal, run.module.parameters(), other.module.parameters()))


def test_the_strategy_is_part_of_what_names_a_state() -> None:
    named = [surroundings(None, torch.device("cpu"), "", stacked=stacked) for stacked in (False, True)]
    assert digest(named[0]) != digest(named[1])


def test_a_damaged_state_is_noted_and_that_seed_starts_over(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    first, states = begin()
    train(first, 2)
    path = states.paths[first.runs[1]]
    path.write_bytes(path.read_bytes()[:-1])
    later, _ = begin()
    assert later.reused == [2, 0]
    (note,) = later.notes
    assert "seed-1.safetensors cannot be used: " in note
    assert note.endswith("It is removed, and seed 1 of Model2 starts over.")
    assert note in caplog.messages
    assert not path.exists()
    assert history(later) == history(training())


def test_what_cannot_be_kept_is_noted_once(
    begin: Begin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, states = begin()
    states.directory.parent.mkdir(parents=True)
    states.directory.write_text("a file")
    rows = history(made)
    (note,) = made.notes
    assert note.startswith("Model2 is trained without keeping its state: Cannot write ")
    assert caplog.messages == [note]
    assert rows == history(training())
    monkeypatch.setattr(checkpoint, "save", lambda *_: pytest.fail("no longer"))
    states.save(made.runs[0])


def test_old_states_are_removed_unless_they_are_of_the_future(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("old", 15), ("young", 13), ("future", -400)):
        directory = tmp_path / "small-0" / name
        directory.mkdir(parents=True)
        for path in (directory / "seed-0.safetensors", directory.with_name(f"{name}.lock")):
            path.touch()
        for path in (directory / "seed-0.safetensors", directory.with_name(f"{name}.lock"), directory):
            os.utime(path, (now - age * 86400, now - age * 86400))
    remove_old(tmp_path)
    assert sorted(path.name for path in (tmp_path / "small-0").iterdir()) == [
        "future", "future.lock", "young", "young.lock",
    ]  # fmt: skip
