"""What a run leaves for continuous integration, apart from pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.harness import ci


def row(seed: int, epoch: int, **values: float) -> dict[str, object]:
    return {"configuration": "one", "seed": seed, "epoch": epoch, "train_loss": 1.0, "val_accuracy": 0.5, **values}


def test_properties_are_means_over_seeds_in_the_last_epoch() -> None:
    rows = [row(seed, epoch, train_loss=1 + seed / epoch, seconds=epoch) for seed in (0, 1) for epoch in (1, 2, 3)]
    found = dict(ci.of_record({"configuration": "one", "history": rows}))
    assert found == {
        "kvbench.seeds": "2",
        "kvbench.epoch": "3",
        "kvbench.train_loss": "1.16667",
        "kvbench.val_accuracy": "0.5",
        "kvbench.seconds": "2",
    }
    assert ci.of_record({"configuration": "one", "history": []}) == []


def test_a_test_that_runs_again_has_the_properties_of_its_last_time() -> None:
    known = [("mine", 1), ("kvbench.seeds", "2")]
    assert ci.replaced(known, [("kvbench.seeds", "3")]) == [("mine", 1), ("kvbench.seeds", "3")]


def test_a_summary_is_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("before\n")
    ci.add_summary(path, "# mine\n")
    ci.add_summary(path, "# more")
    assert path.read_text() == "before\n# mine\n\n# more\n\n"


@pytest.mark.parametrize("before", [0, 1, 2**19, 2**20 - 200, 2**20 - 40, 2**20, 2**20 + 5])
def test_a_summary_never_grows_beyond_what_is_taken(tmp_path: Path, before: int) -> None:
    path = tmp_path / "summary"
    path.write_bytes(b"\n" * before)
    line = "| ä | 0.5 |"
    ci.add_summary(path, "\n".join([line] * 200_000))
    added = path.read_bytes()[before:].decode()
    assert len(path.read_bytes()) <= max(before, ci.LARGEST)
    if before <= 2**20 - 200:
        assert added.endswith("\n\nCut here: a step's summary holds 1,048,576 bytes.\n\n")
        assert {*added.rpartition("\n\nCut")[0].splitlines()} == {line}, "whole lines"
        assert len(path.read_bytes()) > ci.LARGEST - 100
    else:
        assert added == ""
