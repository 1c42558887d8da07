"""``kvbench sweep``, called as a user types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvbench.core.trainer import Training
from kvbench.studies import registry
from tests.support import tiny
from tests.support.commands import Call
from tests.support.grids import STUDY

FORMULAS = ("sweep", "--study", "formulas", "--device", "cpu", "--seeds", "3")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register(monkeypatch)
    monkeypatch.setitem(registry.BUILT_IN, STUDY.name, STUDY)


def test_a_grid_of_the_tiny_workload_is_mapped(call: Call) -> None:
    grid = ("--set", "lr=1e-3,3e-3", "--set", "train_count=64,128", "--set", "epochs=1")
    told = call("sweep", "--workload", "tiny", "--device", "cpu", *grid, "--finding", "gelu-beats-relu", "--out", "o")
    assert told.code == 0, told.err
    page = Path("o/sweep.md").read_text()
    assert told.out == f"{page}\no/sweep.md\no/verdicts.csv\no/histories.csv\n"
    assert "# kvbench sweep: kv-memory on tiny" in page
    assert "- epochs, in all cells: 1" in page
    assert len(re.findall(r"^## ", page, flags=re.MULTILINE)) == 4, "one finding"
    assert "[4/4] lr=0.003 train_count=128 epochs=1: 8 trained, 0 reused" in told.err
    again = call("-q", "sweep", "--workload", "tiny", "--device", "cpu", *grid, "--finding", "gelu-beats-relu")
    assert again.out == f"{page}\n"
    assert "reused" not in again.err


def test_a_picture_is_written_where_it_is_asked_for(call: Call) -> None:
    pytest.importorskip("matplotlib")
    told = call(*FORMULAS, "--set", "lr=0.02,0.08", "--chart", "maps/a.svg")
    assert told.code == 0, told.err
    assert told.out.endswith("\n\nmaps/a.svg\n")
    assert Path("maps/a.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], r"Nothing varies: a grid needs several values of at least one field, such as lr=1e-3,3e-3"),
        (["--set", "lr=1e-3,1e-3"], r"lr=0\.001 is in the grid twice"),
        (["--set", "lrs=1,2"], r"Unknown field 'lrs'\. Did you mean lr"),
        (
            ["--set", "lr=0.02,0.08", "--finding", "momentum"],
            r"Unknown finding 'momentum'",
        ),
        (["--set", "lr=0.02,0.08", "--chart", "a.gif"], r"Cannot draw a\.gif: its suffix must be one of"),
        (["--set", "lr=0.02,0.08", "--out", "file/o"], r"Cannot write to the folder file/o"),
        (["--set", "lr=0.02,0.08", "--cache", "file/c"], r"Cannot write to the folder file/c"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    arguments: list[str], sentence: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setattr(Training, "finish", lambda _: pytest.fail("something was trained"))
    told = call(*FORMULAS, *arguments)
    assert told.code == 2
    assert re.match(rf"Error: .*{sentence}", told.err), told.err
    assert told.out == ""
