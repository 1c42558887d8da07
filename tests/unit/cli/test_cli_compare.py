"""`kvbench compare` as a user types it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvbench.reporting.moves import FORMATS, MOST_ROWS
from kvbench.utils.text import SCREEN
from tests.support import EXPECTED
from tests.support.commands import Call, Result
from tests.support.pages import parse
from tests.support.saved_runs import run_of
from tests.support.sides import changed, runs
from tests.support.tables import cells

MACHINE = Path(".benchmarks/Linux-CPython-3.11-64bit")
NAMES = ("Model1", "Model2")


def save(histories: pd.DataFrame, name: str = "0001_main", **facts: Any) -> Path:
    path = MACHINE / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run_of(histories, **facts)))
    return path


def both(call: Call, after: pd.DataFrame, *arguments: object, **facts: Any) -> Result:
    """Compare the usual run with another one."""
    save(runs(range(8), NAMES))
    save(after, "0002_patch", **facts)
    return call("compare", "main", "2", *arguments)


WORSE = changed(runs(range(8), NAMES, jitter=1e-4), "Model2", train_loss=1.05, seconds=1.5)


def test_two_clean_runs_exit_with_0(call: Call) -> None:
    told = both(call, runs(range(8), NAMES))
    assert told.code == 0, told.err
    assert told.out.endswith("\nNothing moved from main to 2.\n")
    assert "The same: 10 numbers, " in told.out
    assert "train_loss, last epoch 0.1%" in told.out, "what would have been seen"
    assert f"main ({MACHINE}/0001_main.json): passed, workload nowhere, seeds 8" in told.out.replace("\n   ", " ")


def test_what_is_worse_is_named_and_exits_with_1(call: Call) -> None:
    told = both(call, WORSE)
    assert told.code == 1, told.err
    assert max(map(len, told.out.splitlines())) <= SCREEN
    rows = [line for line in told.out.splitlines() if line.startswith("Model2") and "train_loss" in line]
    assert ["+5.00%" in row for row in rows] == [True, True]
    assert "Moved for the worse from main to 2: 2 numbers of Model2 moved for the worse" in told.out
    assert re.search(r"^Model2 +\S+ +\S+ +1\.5", told.out, flags=re.MULTILINE), "seconds"


def test_what_is_better_exits_with_0_and_is_told(call: Call) -> None:
    told = both(call, changed(runs(range(8), NAMES, jitter=1e-4), "Model2", train_loss=0.9))
    assert told.code == 0
    assert "Moved for the better:" in told.out
    assert "Nothing moved for the worse from main to 2: 2 numbers of Model2 moved for the better." in told.out


def test_markdown_has_the_same_numbers(call: Call) -> None:
    told = both(call, WORSE, "--format", "markdown")
    assert told.code == 1
    assert told.out.startswith("# kvbench: 2 against main\n\n**Moved for the worse from main to 2: ")
    head, *rows = cells(told.out)
    assert head == ["configuration", "number", "A", "B", "change", "allowed", "against"]
    assert [row[:2] for row in rows] == [
        ["Model2", r"train\_loss, whole curve"],
        ["Model2", "train\\_loss, last epoch"],
    ] or [row[0] for row in rows] == ["Model2", "Model2"]
    assert rows[1][4:5] == ["+5.00%"]


def test_json_has_everything_and_no_nan(call: Call) -> None:
    told = both(call, WORSE.assign(val_loss=math.nan), "--format", "json")
    assert told.code == 1

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(told.out, parse_constant=refuse)
    assert (content["outcome"], content["exit"]) == ("worse", 1)
    ways = {(row["configuration"], row["number"]): row["way"] for row in content["numbers"]}
    assert len(ways) == 10
    assert ways["Model2", "train_loss, last epoch"] == "worse"
    assert ways["Model1", "val_loss, last epoch"] == "not settled"
    assert [round(row["ratio"], 3) for row in content["seconds"]] == pytest.approx([1, 1.5], abs=0.01)
    assert content["b"]["source"] == f"{MACHINE}/0002_patch.json"


def test_a_page_has_what_moved_and_both_sides_curves(call: Call) -> None:
    told = both(call, WORSE, "--html", "page.html")
    assert told.code == 1
    html = Path("page.html").read_text()
    root = parse(html)
    assert "Moved for the worse from main to 2" in root.text
    (table,) = [one for one in root.everything if one.attributes.get("id") == "table-worse-numbers"]
    assert [row[0] for row in table.all("table")[0].cells[1:]] == ["Model2", "Model2"]
    assert html.count('stroke-dasharray="1 3"') == 2 * 4 * 2, "two configurations, four metrics, two scales"
    assert "Grey and dotted: the mean of main (A)." in root.text
    ids = [one.attributes["id"] for one in root.everything if "id" in one.attributes]
    assert len(ids) == len({*ids})
    assert {one.attributes["href"][1:] for one in root.all("a")} <= {*ids}


def test_a_baseline_that_did_not_pass_needs_a_word(call: Call) -> None:
    save(runs(range(3), NAMES), outcome="failed", reasons=["test_configuration[Model1]"])
    save(runs(range(3), NAMES), "0002_patch")
    told = call("compare", "main", "patch")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("Error: main is no baseline: it failed; test_configuration[Model1].")
    told = call("compare", "main", "patch", "--allow-failed")
    assert told.code == 0
    assert "Note: main: it failed; test_configuration[Model1]." in told.out
    assert call("compare", "patch", "main").code == 0


def test_seconds_count_where_that_is_asked_for(call: Call) -> None:
    told = both(call, changed(runs(range(8), NAMES), "Model2", seconds=1.5), "--fail-on-seconds", 1.25)
    assert told.code == 1
    assert "the seconds of Model2 moved for the worse" in told.out
    assert "decide nothing" not in told.out


def test_references_are_sides_by_name_and_by_folder(call: Call) -> None:
    told = call("compare", "imagenet", EXPECTED / "imagenet", "--folder", EXPECTED)
    assert told.code == 3, "one seed"
    assert "both sides are the same file" in told.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["main", "gone.json"], "There is no file gone.json."),
        (["main", "nobody"], "Unknown saved run or reference 'nobody'."),
        (["main", "mian"], "Unknown saved run or reference 'mian'."),
        (["main", "bad.json"], "bad.json can't be read as JSON: "),
        (["main", "other.json"], "other.json holds no kvbench histories; "),
        (["main", "list.json"], "list.json is not a JSON object."),
        (["main", "workload"], "main is of the workload nowhere, workload of elsewhere: they cannot be compared."),
        (["main", "study"], "main is of the study kv-memory, study of other: they cannot be compared."),
        (["main", "recipe"], "recipe was made from something else than main (recorded): teacher (xyz, recorded abc)."),
        (["main", "short"], "main and short cannot be compared: Model1: in short, Model1 lacks seed 0, epoch 3"),
        (["main", "long"], "main and long cannot be compared: Model1: in long, Model1 has, beyond what is expected"),
        (["main", "others"], "main and others have no configuration in common: Model1, Model2; Model3."),
        (["main", "main", "--format", "xml"], "Unknown format of a comparison 'xml'."),
        (["main", "main", "--fail-on-seconds", "0.5"], "Got --fail-on-seconds 0.5: valid is a ratio from 1"),
        (["main", "main", "--fail-on-seconds", "nan"], "Got --fail-on-seconds nan: valid is a ratio from 1"),
        (["main", "\x1b[31m"], "Unknown saved run or reference '\\x1b[31m'."),
        (["main", "x" * 5000], "Unknown saved run or reference 'xxxx"),
        (["main", ""], "Unknown saved run or reference ''."),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(arguments: list[str], sentence: str, call: Call) -> None:
    few = runs(range(2), NAMES)
    save(few)
    others: list[tuple[str, pd.DataFrame, dict[str, Any]]] = [
        ("workload", few, {"workload": "elsewhere"}),
        ("study", few, {"study": "other"}),
        ("recipe", few, {"fingerprints": {"teacher": "xyz"}}),
        ("short", runs(range(2), NAMES, epochs=2), {}),
        ("long", runs(range(2), NAMES, epochs=5), {}),
        ("others", runs(range(2), ["Model3"]), {}),
    ]
    for number, (name, rows, facts) in enumerate(others, 2):
        save(rows, f"{number:04}_{name}", **facts)
    Path("bad.json").write_text('{"benchmarks": [')
    Path("other.json").write_text(json.dumps({"benchmarks": [{"name": "test", "stats": {}}]}))
    Path("list.json").write_text("[]")
    told = call("compare", *arguments)
    assert (told.code, told.out) == (2, ""), told
    assert told.err.splitlines()[-1].startswith(f"Error: {sentence}")


def test_every_number_is_a_row_of_one_table_for_spreadsheets_and_papers(call: Call) -> None:
    told = both(call, WORSE, "--format", "csv")
    assert told.code == 1
    table = [*csv.DictReader(io.StringIO(told.out))]
    moved = [row for row in table if row["way"] == "worse"]
    assert [(row["what"], row["number"], row["change"]) for row in moved] == [
        ("Model2", "train_loss, whole curve", "+5.00%"), ("Model2", "train_loss, last epoch", "+5.00%"),
    ]  # fmt: skip
    _, *markdown = cells(both(call, WORSE, "--format", "markdown").out)
    assert [list(row.values())[:-1] for row in moved] == markdown[:2]
    assert [row["what"] for row in table if row["number"] == "seconds"] == [*NAMES]
    paper = both(call, WORSE, "--format", "latex")
    assert paper.code == 1
    assert paper.out.startswith("\\begin{tabular}{llllllll}\n\\toprule\n")
    assert paper.out.count(r"\\") == len(table) + 1


def test_numbers_of_every_size_are_compared(call: Call) -> None:
    for lost in (math.nan, math.inf, 1e300, 0.0):
        after = runs(range(3), NAMES)
        after.loc[after["configuration"] == "Model2", ["train_loss", "seconds"]] = lost
        for form in FORMATS:
            told = both(call, after, "--format", form, "--html", "page.html")
            assert told.code in {0, 1, 3}, told.err
            assert "Traceback" not in told.err
        assert told.code == (0 if lost == 0 else 1)


def test_names_of_any_kind_are_shown_and_safe(call: Call) -> None:
    name = "<script>alert(1)</script> | \x1b[31m \u202egnp"
    usual = runs(range(3), ["a", name])
    after = changed(usual, name, train_loss=2.0)
    for form in FORMATS:
        save(usual)
        save(after, "0002_patch")
        told = call("compare", "main", "2", "--format", form, "--html", "page.html")
        assert told.code == 1, told.err
        assert "\x1b" not in told.out
        assert "\u202e" not in told.out
        assert form != "markdown" or "<script>" not in told.out.replace(r"\<", "")
        assert form != "text" or max(map(len, told.out.splitlines())) <= SCREEN
    root = parse(Path("page.html").read_text())
    assert len(root.all("script")) == 1
    assert "alert(1)" in root.text


def test_five_hundred_configurations_are_compared_and_bounded(call: Call) -> None:
    names = [f"student-{number:03}-of-a-long-name" for number in range(500)]
    for file, factor in (("a", 1), ("b", 2)):
        rows = runs([0, 1], names, epochs=1)
        some = run_of(rows.assign(train_loss=rows["train_loss"] * factor))
        Path(f"{file}.json").write_text(json.dumps(some))
    told = call("compare", "a.json", "b.json", "--html", "page.html")
    assert told.code == 1
    assert len(told.out.splitlines()) < 150
    assert "more: --format json has all" in told.out
    assert len(Path("page.html").read_bytes()) < 2**20
    told = call("compare", "a.json", "b.json", "--format", "markdown")
    assert len(told.out.splitlines()) < 2 * MOST_ROWS + 60, "numbers and seconds"
    assert len(told.out) < 65_536, "as long as a comment on GitHub may be"
