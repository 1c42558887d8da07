"""`kvbench history` over a folder of saved runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvbench.reporting.timeline import MOST_RUNS
from kvbench.utils.text import SCREEN
from tests.support.commands import Call
from tests.support.pages import parse
from tests.support.saved_runs import run_of
from tests.support.sides import changed, runs

MACHINE = Path(".benchmarks/Linux-CPython-3.11-64bit")
NAMES = ("Model1", "Model2")


def save(number: int, histories: pd.DataFrame, machine: Path = MACHINE, **facts: Any) -> None:
    machine.mkdir(parents=True, exist_ok=True)
    made = run_of(histories, **facts)
    made["datetime"] = f"2026-01-{number % 28 + 1:02}T03:04:05"
    (machine / f"{number:04}_run.json").write_text(json.dumps(made))


def usual(number: int, **factors: float) -> pd.DataFrame:
    return changed(runs(range(5), NAMES, jitter=1e-5 * number), "Model2", **factors)


@pytest.fixture
def six() -> None:
    """Six runs: from the third on Model2's loss is higher, from the fifth on it is slower."""
    for number in range(1, 7):
        worse, slower = 1.05 if number > 2 else 1.0, 3.0 if number > 4 else 1.0
        outcome = "failed" if number == 3 else "passed"
        save(number, usual(number, train_loss=worse, seconds=slower), outcome=outcome, compared=number < 5,
             drifted=["train_loss"] if number == 3 else [])  # fmt: skip


def test_it_lists_runs_and_when_what_moved(call: Call, six: None) -> None:
    told = call("history")
    assert (told.code, told.err) == (0, "")
    assert max(map(len, told.out.splitlines())) <= SCREEN
    assert told.out.startswith(f"nowhere (kv-memory) on {MACHINE.name}:\n")
    assert "0003_run  2026-01-04  1234abcd  failed" in told.out
    moved = told.out.partition("Moved:\n")[2].splitlines()
    assert moved[0] == "0003_run: passed -> failed"
    assert moved[1].startswith("0003_run: Model2, train_loss, whole curve: +5.0")
    assert moved[1].endswith("(worse)")
    assert [line[:8] for line in moved] == ["0003_run"] * 3 + ["0004_run"] + ["0005_run"] * 2
    assert moved[3] == "0004_run: failed -> passed"
    assert "Model2, seconds over the run's mean: 1.0" in moved[5]


def test_what_creeps_is_seen_against_the_run_from_which_it_set_out(call: Call) -> None:
    for number in range(1, 9):
        save(number, usual(number, train_loss=1.0004**number))
    assert "train_loss" in call("history").out.partition("Moved:")[2]


def test_a_change_of_the_recipe_is_a_new_start(call: Call) -> None:
    save(1, usual(1))
    for number in (2, 3):
        save(number, usual(number, train_loss=0.5), fingerprints={"teacher": "xyz"})
    moved = call("history").out.partition("Moved:\n")[2].replace("\n    ", " ").splitlines()
    assert len(moved) == 1
    assert moved[0].startswith("0002_run: a new start, 0002_run was made from something else than 0001_run")


def test_a_partial_run_does_not_become_what_others_are_held_against(call: Call) -> None:
    save(1, usual(1))
    save(2, changed(runs(range(5), ["Model1"], jitter=1e-5), "Model1", train_loss=0.5), outcome="incomplete")
    save(3, usual(3, train_loss=1.1))
    told = call("history").out.partition("Moved:\n")[2]
    assert "0003_run: Model2, train_loss, last epoch" in told


def test_machines_and_workloads_have_timelines_of_their_own(call: Call) -> None:
    save(1, usual(1))
    save(2, usual(2, train_loss=2.0), workload="elsewhere")
    save(3, usual(3, train_loss=3.0), Path(".benchmarks/Darwin"))
    told = call("history")
    assert told.out.count("Nothing moved.") == 3
    assert call("history", MACHINE).out.count("Nothing moved.") == 2


def test_what_cannot_be_read_is_named_and_skipped(call: Call) -> None:
    save(1, usual(1))
    for name, content in (("a", "{"), ("b", '{"benchmarks": []}'), ("c", "[]"), ("\x1b[31m", "")):
        (MACHINE / f"{name}.json").write_text(content)
    told = call("history")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("Skipped: ") == 4
    assert "\x1b" not in told.out


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["file"]])
def test_without_a_run_there_is_a_sentence(arguments: list[str], call: Call) -> None:
    Path("file").write_text("")
    (Path(".benchmarks") / "x").mkdir(parents=True)
    (Path(".benchmarks") / "x" / "0001_bad.json").write_text("{")
    told = call("history", *arguments)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith("Error: There is no saved run of kvbench in ")
    assert ("Skipped: " in told.err) == (not arguments)


def test_the_table_for_spreadsheets_has_every_number(call: Call, six: None) -> None:
    assert call("history", "--csv", "history.csv").code == 0
    with Path("history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["run"], row["kind"], row["name"]): row["value"] for row in rows}
    assert found["0003_run", "outcome", ""] == "failed"
    assert found["0003_run", "gate", "Model2"] == "DRIFTED: train_loss"
    assert found["0001_run", "gate", "Model2"] == "within"
    assert found["0006_run", "gate", "Model2"] == "not compared"
    assert float(found["0003_run", "train_loss", "Model2"]) == pytest.approx(
        1.05 * float(found["0002_run", "train_loss", "Model2"]), rel=1e-3
    )
    assert float(found["0006_run", "seconds", "Model2"]) > 2.5


def test_the_page_draws_runs_gates_verdicts_and_seconds(call: Call, six: None) -> None:
    assert call("history", "--html", "page.html").code == 0
    root = parse(Path("page.html").read_text())
    tables = {one.attributes["id"]: one.all("table")[0].cells for one in root.everything
              if one.attributes.get("id", "").startswith("table-")}  # fmt: skip
    assert [row[3] for row in tables["table-t1-runs"][1:]] == ["passed"] * 2 + ["failed"] + ["passed"] * 3
    assert tables["table-t1-gates"][2][:5] == ["Model2", "within", "within", "DRIFTED: train_loss", "within"]
    ids = [one.attributes["id"] for one in root.everything if "id" in one.attributes]
    assert len(ids) == len({*ids})
    assert {"t1-train_loss", "t1-val_accuracy", "t1-seconds"} <= {*ids}
    assert {one.attributes["href"][1:] for one in root.all("a")} <= {*ids}
    (seconds,) = [one for one in root.all("section") if one.attributes["id"] == "t1-seconds"]
    assert len([one for one in seconds.all("g") if "data-x" in one.attributes]) == 2
    assert "0003_run" in root.text


def test_lost_numbers_and_many_runs_make_a_bounded_page(call: Call) -> None:
    for number in range(1, MOST_RUNS + 3):
        rows = runs([0, 1], ["<b>a</b>"], epochs=1)
        save(number, rows.assign(train_loss=math.nan) if number % 2 else rows)
    told = call("history", "--html", "page.html", "--csv", "history.csv")
    assert told.code == 0, told.err
    text = Path("page.html").read_text()
    assert len(text) < 500_000
    root = parse(text)
    assert {one.text for one in root.all("b")}.isdisjoint({"a"})
    assert "What came of 2 earlier runs is in the file of --csv." in root.text
