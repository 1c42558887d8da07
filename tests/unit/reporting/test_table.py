"""Tables in the formats of papers and spreadsheets."""

from __future__ import annotations

import csv
import io
import math

import pytest

from kvbench.reference.store import load
from kvbench.reporting.table import BOLD, ITALIC, Starred, Table
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.commands import Call
from tests.support.pages import run_of
from tests.support.tables import cells

TABLE = Table(("configuration", "1"), (("lr_A & B\\{x}$^~#%", Starred("0.5", BOLD | ITALIC)), ('"a",\nb', "<i>")))


def test_latex_is_escaped_with_the_rules_of_booktabs() -> None:
    lines = TABLE.latex().splitlines()
    assert [lines[0], lines[1], lines[3], lines[-2], lines[-1]] == [
        r"\begin{tabular}{ll}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert lines[4] == (
        r"lr\_A \& B\textbackslash{}\{x\}\$\textasciicircum{}\textasciitilde{}\#\% & \textbf{\textit{0.5}} \\"
    )
    assert lines[5].endswith(r"& \textless{}i\textgreater{} \\")
    assert len(lines) == 8


def test_csv_is_read_back_as_it_was() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["configuration", "1"], ["lr_A & B\\{x}$^~#%", "0.5"], ['"a",\\nb', "<i>"],
    ]  # fmt: skip


def test_a_format_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"Unknown format of a table 'tex'.*markdown, csv, latex"):
        TABLE.formatted("tex")


@pytest.mark.parametrize("name", ["verdicts", "train_loss", "val_accuracy", "time", "clauses"])
def test_a_table_of_a_reference_can_be_printed_alone(name: str, call: Call) -> None:
    printed = {form: call("report", "--expected", "imagenet", "--folder", EXPECTED, "--table", name, "--format", form)
               for form in ("markdown", "csv", "latex")}  # fmt: skip
    assert {told.code for told in printed.values()} == {0}
    plain = [[cell.strip("*").replace("\\", "") for cell in row] for row in cells(printed["markdown"].out)]
    assert list(csv.reader(io.StringIO(printed["csv"].out))) == plain
    assert printed["latex"].out.count(r"\\") == len(plain)


def test_a_table_that_is_not_there_is_named(call: Call) -> None:
    told = call("report", "--expected", "imagenet", "--folder", EXPECTED, "--table", "val_los")
    assert told.code == 2
    assert told.err == "Error: Unknown table 'val_los'. Did you mean train_loss? Valid: verdicts, train_loss, " \
        "val_accuracy, time, clauses.\n"  # fmt: skip


def test_every_clause_has_verdict_margin_interval_and_seeds_in_one_table(call: Call) -> None:
    told = call("report", "--expected", "fractals", "--folder", EXPECTED, "--table", "clauses", "--format", "csv")
    table = [*csv.DictReader(io.StringIO(told.out))]
    recorded = load(EXPECTED, "fractals", DESIGN).recorded.to_dict("records")
    assert len(table) > len(recorded) > 40
    for row, one in zip([row for row in table if row["counts"] == "yes"], recorded, strict=True):
        assert [row[name] for name in ("finding", "recipe", "clause", "verdict", "seeds")] == [
            str(one[name]) for name in ("finding", "recipe", "clause", "verdict", "n")
        ]
        low, high = row["95% interval"].split(" to ")
        if row["margin"].endswith("x"):
            ends = [float(end.rstrip("x")) for end in (row["margin"], low, high)]
            assert ends == [float(f"{math.exp(end):.3g}") for end in (one["margin"], one["low"], one["high"])]


def test_every_tolerance_of_a_run_is_in_one_table(call: Call) -> None:
    run = run_of(load(EXPECTED, "fractals", DESIGN))
    table = run.table("tolerances")
    assert len(table.rows) == 14 * 5
    assert [(row[0], row[1]) for row in table.rows if row[-1] == Starred("DRIFTED", BOLD)] == [
        ("Model3", "train_loss, whole curve"), ("Model3", "train_loss, last epoch"),
    ]  # fmt: skip
    assert table.latex().count(r"\textbf{DRIFTED}") == 2
    told = call("report", "--expected", "fractals", "--folder", EXPECTED, "--table", "tolerances")
    assert (told.code, "There is nothing for the table tolerances here" in told.err) == (2, True), (
        "a reference has none"
    )
    told = call("report", "--expected", "imagenet", "--folder", EXPECTED, "--table", "val_loss")
    assert (told.code, "There is nothing for the table val_loss here; there is for verdicts" in told.err) == (2, True)


def test_the_verdicts_of_several_references_are_one_table(call: Call) -> None:
    several = ["report", "--expected", "imagenet", "--expected", "fractals", "--folder", EXPECTED]
    plain = cells(call(*several).out)
    told = {form: call(*several, "--table", "verdicts", "--format", form) for form in ("markdown", "csv", "latex")}
    assert {one.code for one in told.values()} == {0}
    assert cells(told["markdown"].out) == plain
    assert list(csv.reader(io.StringIO(told["csv"].out))) == plain
    assert plain[0] == ["finding", "recipe", "imagenet", "fractals"]
    assert told["latex"].out.count(r"\\") == len(plain)
