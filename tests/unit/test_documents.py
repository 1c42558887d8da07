"""The documents: what commands wrote is what they write now, no line is too wide, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvbench.reference.store import load
from tests.support import EXPECTED, ROOT
from tests.support.commands import Call

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")])
WIDTH = 120
REWRITTEN_SOON = {
    "README",
    "CHANGELOG",
    "design",
    "extending",
    "findings",
    "performance",
    "reliability",
    "statistics",
    "tables",
}
DOCUMENTS = [path for path in DOCUMENTS if path.stem not in REWRITTEN_SOON]


def test_the_page_of_results_is_what_its_command_prints(call: Call) -> None:
    workloads = [part for name in ("imagenet", "tiny-imagenet", "fractals") for part in ("--expected", name)]
    told = call("report", *workloads, "--folder", EXPECTED)
    assert (ROOT / "docs" / "results.md").read_text() == told.out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_is_wider_than_a_screen(path: Path) -> None:
    wide = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r'(?:\]\(|src="|href="|srcset=")([^)#"\s]+)', path.read_text())
    gone = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert gone == []


def test_the_readmes_headline_is_what_the_references_record() -> None:
    readme = (ROOT / "README.md").read_text()
    for workload in ("imagenet", "tiny-imagenet", "fractals"):
        judged = load(EXPECTED, workload).judgements
        headline = {j.recipe: j.verdict for j in judged if j.finding.id == "simple-converges-faster"}
        (row,) = re.findall(rf"^\| {workload} .*$", readme, flags=re.MULTILINE)
        assert [cell.strip() for cell in row.split("|")][-3:-1] == [headline["StepLR"], headline["constant lr"]]
