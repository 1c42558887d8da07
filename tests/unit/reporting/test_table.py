"""Tables in the formats of papers and spreadsheets."""

from __future__ import annotations

import csv
import io

import pytest

from kvbench.reporting.table import BOLD, ITALIC, Starred, Table
from kvbench.utils.errors import UserError
from tests.support import EXPECTED
from tests.support.commands import Call
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
    assert len(lines) == 8


def test_csv_is_read_back_as_it_was() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["configuration", "1"], ["lr_A & B\\{x}$^~#%", "0.5"], ['"a",\\nb', "<i>"],
    ]  # fmt: skip


def test_a_format_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"Unknown format of a table 'tex'.*markdown, csv, latex"):
        TABLE.formatted("tex")


@pytest.mark.parametrize("name", ["verdicts", "train_loss", "val_accuracy", "time"])
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
        "val_accuracy, time.\n"  # fmt: skip
