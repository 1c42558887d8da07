"""`kvbench history` over a folder of saved runs."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvbench.reporting.figures import MOST_LINES
from kvbench.reporting.timeline import MOST_MOVES, MOST_RUNS
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


def usual(number: int, names: Sequence[str] = NAMES, seeds: int = 5, **factors: float) -> pd.DataFrame:
    """Nearly the same in every run, with metrics of Model2 multiplied."""
    return changed(runs(range(seeds), names, jitter=1e-5 * number), "Model2", **factors)


def listed(call: Call) -> list[str]:
    """What `kvbench history` lists as moved, each in one line."""
    told = call("history")
    assert (told.code, told.err) == (0, "")
    return told.out.partition("Moved:\n")[2].partition("\n\n")[0].replace("\n    ", " ").splitlines()


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
    moved = listed(call)
    assert moved[:3] == [
        "0003_run: outcome: passed -> failed",
        *(f"0003_run: {name}, gate: within -> DRIFTED: train_loss" for name in NAMES),
    ]
    assert moved[3].startswith("0003_run: Model2, train_loss, whole curve: +5.0")
    assert moved[3].endswith("(worse)")
    assert [line[:8] for line in moved] == ["0003_run"] * 5 + ["0004_run"] * 3 + ["0005_run"] * 2
    assert moved[5:8] == [
        "0004_run: outcome: failed -> passed",
        *(f"0004_run: {name}, gate: DRIFTED: train_loss -> within" for name in NAMES),
    ]
    assert "Model2, seconds over the run's mean: 1.0" in moved[9]


def test_what_creeps_is_seen_against_the_run_from_which_it_set_out(call: Call) -> None:
    for number in range(1, 9):
        save(number, usual(number, train_loss=1.0004**number))
    assert "train_loss" in call("history").out.partition("Moved:")[2]


def test_a_change_of_the_recipe_is_a_new_start(call: Call) -> None:
    save(1, usual(1))
    for number in (2, 3):
        save(number, usual(number, train_loss=0.5), fingerprints={"teacher": "xyz"})
    assert listed(call) == [
        "0002_run: a new start: made from something else than 0001_run: teacher (xyz, recorded abc)"
    ]


def test_a_run_of_another_recipe_in_between_hides_nothing(call: Call) -> None:
    save(1, usual(1))
    save(2, usual(2, train_loss=0.5), fingerprints={"teacher": "xyz"})
    save(3, usual(3, train_loss=1.5))
    save(4, usual(4, train_loss=1.5))
    moved = listed(call)
    assert moved[1] == "0003_run: as before: made from the same as 0001_run"
    assert [line[:30] for line in moved[2:]] == ["0003_run: Model2, train_loss, "] * 2


@pytest.mark.parametrize("outcome", ["passed", "failed", "incomplete"])
def test_after_a_first_run_of_a_part_the_rest_has_a_baseline_of_its_own(outcome: str, call: Call) -> None:
    save(1, usual(1, ["Model1"]), outcome=outcome)
    save(2, usual(2))
    save(3, usual(3, train_loss=1.5))
    moved = [line for line in listed(call) if "outcome" not in line]
    assert moved[0] == "0002_run: new: Model2"
    assert [line[:30] for line in moved[1:]] == ["0003_run: Model2, train_loss, "] * 2


def test_a_run_that_failed_first_is_no_baseline(call: Call) -> None:
    save(1, usual(1, train_loss=1.5), outcome="failed")
    save(2, usual(2), outcome="unknown")
    told = call("history").out
    assert told.endswith("No baseline, as no run made like 0001_run passed that has them: Model1, Model2.\n")
    save(3, usual(3))
    save(4, usual(4))
    assert listed(call) == ["0002_run: outcome: failed -> unknown", "0003_run: outcome: unknown -> passed"]
    assert "No baseline" not in call("history").out


def test_a_partial_run_in_between_hides_nothing_of_the_rest(call: Call) -> None:
    save(1, usual(1))
    save(2, changed(usual(2, ["Model1"]), "Model1", train_loss=0.5), outcome="incomplete")
    save(3, changed(usual(3, train_loss=1.1), "Model1", train_loss=0.5))
    moved = [line for line in listed(call) if "outcome" not in line]
    assert [line.partition(", train_loss")[0] for line in moved] == ["0002_run: Model1"] * 2 + ["0003_run: Model2"] * 2


def test_what_a_failed_run_showed_is_not_listed_again(call: Call) -> None:
    for number in range(1, 6):
        save(
            number, usual(number, train_loss=1.5 if number > 2 else 1.0), outcome="failed" if number == 3 else "passed"
        )
    assert [line[:16] for line in listed(call)] == ["0003_run: outcom"] + ["0003_run: Model2"] * 2 + [
        "0004_run: outcom"
    ]


def test_a_student_that_was_added_moves_like_any_other(call: Call) -> None:
    save(1, usual(1, ["Model1", "Model3"]))
    save(2, usual(2, ["Model1", "Model3", "Model2"]))
    save(3, usual(3, ["Model1", "Model3", "Model2"], train_loss=1.5))
    moved = listed(call)
    assert moved[0] == "0002_run: new: Model2"
    assert [line[:30] for line in moved[1:]] == ["0003_run: Model2, train_loss, "] * 2


def test_a_student_that_was_removed_is_listed_once_and_hides_nothing(call: Call) -> None:
    save(1, usual(1, ["Model1", "Model2", "Model3"]))
    for number in (2, 3, 4):
        save(number, usual(number, train_loss=1.5))
    save(5, usual(5, ["Model1", "Model2", "Model3"], train_loss=1.5))
    moved = listed(call)
    assert moved[0] == "0002_run: no longer there: Model3"
    assert [line[:30] for line in moved[1:3]] == ["0002_run: Model2, train_loss, "] * 2
    assert moved[3:] == ["0005_run: there again: Model3"]


def test_seeds_and_metrics_that_are_lost_are_listed_once(call: Call) -> None:
    for number in range(1, 7):
        rows = usual(number)
        if number in (3, 4):
            rows.loc[rows["configuration"] == "Model2", "agreement"] = math.nan
        lost = (rows["configuration"] == "Model1") & (rows["seed"] == 4) & (number in (4, 5))
        save(number, rows[~lost], seeds=[*range(5)], outcome="failed" if number in (4, 5) else "passed")
    assert [line for line in listed(call) if "outcome" not in line] == [
        "0003_run: Model2: agreement, last epoch: not measured (not settled)",
        "0004_run: Model1: in 0004_run, Model1 lacks seed 4 (not settled)",
        "0005_run: Model2: settled again",
        "0006_run: Model1: settled again",
    ]


def test_a_run_of_one_seed_gives_way_to_one_that_tells_more(call: Call) -> None:
    for number in range(1, 5):
        save(number, usual(number, seeds=1 if number == 1 else 5, train_loss=1.5 if number == 4 else 1.0))
    assert [line[:30] for line in listed(call)] == ["0004_run: Model2, train_loss, "] * 2
    assert "Too few seeds" not in call("history").out


def test_what_seeds_told_in_no_run_is_no_move_and_is_said_once(call: Call) -> None:
    noisy = runs(range(5), ["Model1"], jitter=2.0).assign(val_accuracy=0.5, agreement=0.5)
    rows = pd.concat([noisy, usual(1, ["Model2"])])
    for number in (1, 2, 3):
        save(number, rows, random_numbers=f"{number}")
    assert call("history").out.endswith(
        "Nothing moved.\n\nToo few seeds to tell, in all runs made like 0001_run: Model1 (3 numbers).\n"
    )


def test_a_student_that_diverges_is_listed_as_it_does_and_as_it_does_not(call: Call) -> None:
    for number in range(1, 6):
        save(number, usual(number, train_loss=math.inf if number in (2, 3) else 1.0))
    moved = listed(call)
    assert moved == ["0002_run: Model2: 2 numbers: no longer finite (worse)", "0004_run: Model2: settled again"]


def test_a_gate_is_listed_as_it_closes_and_as_a_new_reference_opens_it(call: Call) -> None:
    for number in range(1, 6):
        outcome, drifted = {3: ("failed", ["train_loss"]), 4: ("recorded", [])}.get(number, ("passed", []))
        save(number, usual(number, train_loss=1.5 if number > 2 else 1.0), outcome=outcome, compared=number > 1,
             drifted=drifted)  # fmt: skip
    moved = [line for line in listed(call) if "gate" in line]
    assert moved == [
        *(f"0003_run: {name}, gate: within -> DRIFTED: train_loss" for name in NAMES),
        *(f"0004_run: {name}, gate: DRIFTED: train_loss -> within" for name in NAMES),
    ]


def test_one_run_says_that_there_is_none_before(call: Call) -> None:
    save(1, usual(1))
    told = call("history").out
    assert told.endswith("There is one run, so none before.\n")


def test_machines_and_workloads_have_timelines_of_their_own(call: Call) -> None:
    save(1, usual(1))
    save(2, usual(2, train_loss=2.0), workload="elsewhere")
    save(3, usual(3, train_loss=3.0), Path(".benchmarks/Darwin"))
    told = call("history")
    assert told.out.count("There is one run, so none before.") == 3
    assert call("history", MACHINE).out.count("There is one run, so none before.") == 2


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
    moved = [f"{row['run']}: {row['name']}: {row['value']}" for row in rows if row["kind"] == "moved"]
    assert moved == listed(call)


def test_the_page_draws_runs_gates_verdicts_and_seconds(call: Call, six: None) -> None:
    assert call("history", "--html", "page.html").code == 0
    root = parse(Path("page.html").read_text())
    tables = {one.attributes["id"]: one.all("table")[0].cells for one in root.everything
              if one.attributes.get("id", "").startswith("table-")}  # fmt: skip
    assert [row[4] for row in tables["table-t1-runs"][1:]] == ["passed"] * 2 + ["failed"] + ["passed"] * 3
    assert tables["table-t1-gates"][2][:5] == ["Model2", "within", "within", "DRIFTED train_loss", "within"]
    (gates,) = [one for one in root.everything if one.attributes.get("id") == "table-t1-gates"]
    kinds = [one.attributes["class"] for one in gates.all("td") if "class" in one.attributes]
    assert kinds[6:] == [f"square {kind}" for kind in ("within", "within", "drifted", "within", *["not-compared"] * 2)]
    ids = [one.attributes["id"] for one in root.everything if "id" in one.attributes]
    assert len(ids) == len({*ids})
    assert {"t1-train_loss", "t1-val_accuracy", "t1-seconds"} <= {*ids}
    assert {one.attributes["href"][1:] for one in root.all("a")} <= {*ids}
    (seconds,) = [one for one in root.all("section") if one.attributes["id"] == "t1-seconds"]
    assert len([one for one in seconds.all("g") if "data-x" in one.attributes]) == 2
    assert "0003_run" in root.text


def test_every_figure_of_the_page_has_its_numbers_in_a_table(call: Call, six: None) -> None:
    assert call("history", "--html", "page.html").code == 0
    root = parse(Path("page.html").read_text())
    for metric in ("train_loss", "val_loss", "val_accuracy", "agreement", "seconds"):
        (figure,) = [one for one in root.all("section") if one.attributes.get("id") == f"t1-{metric}"]
        (link,) = [one.attributes["href"] for one in figure.all("a")]
        (region,) = [one for one in root.everything if one.attributes.get("id") == link[1:]]
        head, *rows = region.all("table")[0].cells
        assert head == ["configuration", *(f"{number:04}_run" for number in range(1, 7))]
        for name, *cells in rows:
            (line,) = [
                one
                for one in figure.all("g")
                if (one.attributes.get("data-c") or "-") in name and "data-y" in one.attributes
            ]
            told = [[float(number) for number in re.findall(r"\d+\.?\d*", cell)] for cell in cells]
            for place, side in enumerate(("data-y", "data-low", "data-high")):
                drawn = [float(number) for number in line.attributes[side].split()]
                assert drawn == pytest.approx([some[place] for some in told], rel=1e-3)


def test_the_page_lists_what_the_terminal_lists(call: Call, six: None) -> None:
    save(7, usual(7, ["Model1", "Model3"]), outcome="failed")
    save(8, usual(8, train_loss=1.05), fingerprints={"teacher": "xyz"}, outcome="failed")
    told = call("history", "--html", "page.html").out.replace("\n    ", " ")
    root = parse(Path("page.html").read_text())
    (section,) = [one for one in root.all("section") if one.attributes.get("id") == "t1"]
    items = [(item, [one for one in item.all("li") if one is not item]) for item in section.all("li")]
    page = [f"{item.all('b')[0].text}: {one.text.strip()}" for item, inside in items for one in inside]
    remarks = [one.text for one in section.all("p") if "class" not in one.attributes]
    moved = told.partition("Moved:\n")[2].split("\n\n")
    assert page == moved[0].splitlines()
    assert remarks == [text.strip().replace("\n", " ") for text in moved[1:]]
    assert len(remarks) == 2


def test_where_everything_moves_the_list_is_bounded_but_not_the_table_for_spreadsheets(call: Call) -> None:
    names = [f"Model{number}" for number in range(1, 40)]
    for number in (1, 2):
        rows = runs(range(5), names, jitter=1e-5 * number)
        save(number, rows.assign(train_loss=rows["train_loss"] * 1.5**number))
    assert call("history", "--html", "page.html", "--csv", "history.csv").code == 0
    moved = listed(call)
    assert len(moved) == MOST_MOVES + 1
    assert moved[-1] == f"0002_run: and {2 * len(names) - MOST_MOVES} more (--csv has all)"
    root = parse(Path("page.html").read_text())
    assert moved[-1].partition(": ")[2] in root.text
    (figure,) = [one for one in root.all("section") if one.attributes.get("id") == "t1-train_loss"]
    (numbers,) = [one for one in root.everything if one.attributes.get("id") == "table-t1-train_loss"]
    lines = [one for one in figure.all("g") if "data-y" in one.attributes]
    assert len(numbers.all("table")[0].cells) - 1 == len(lines) == 7 + MOST_LINES  # two recipes of the study's
    assert Path("history.csv").read_text().count(",moved,") == 2 * len(names)


def test_lost_numbers_and_many_runs_make_a_bounded_page(call: Call) -> None:
    for number in range(1, MOST_RUNS + 3):
        rows = runs([0, 1], ["<b>a</b>"], epochs=1)
        save(number, rows.assign(train_loss=math.nan) if number % 2 else rows)
    told = call("history", "--html", "page.html", "--csv", "history.csv")
    assert told.code == 0, told.err
    text = Path("page.html").read_text()
    assert len(text) < 500_000
    assert text.count('<th scope="col">0062_run</th>') == text.count('<th scope="col">0003_run</th>') > 2
    assert "0002_run" not in text
    root = parse(text)
    assert {one.text for one in root.all("b")}.isdisjoint({"a"})
    assert "What came of 2 earlier runs is in the file of --csv." in root.text
