"""The page of a comparison says what its markdown does."""

from __future__ import annotations

import re

import pytest

from kvbench.reference.moves import Moves, moves
from kvbench.reference.store import load
from kvbench.reporting.moves import markdown, page
from tests.support import DESIGN, EXPECTED
from tests.support.pages import parse
from tests.support.sides import changed, side
from tests.support.tables import cells

TABLE = r"(?m)(?:^\|.*\n)+"


@pytest.fixture(scope="module")
def moved() -> Moves:
    """Two runs of fractals, of which the second trains one student worse and slower, with another torch."""
    before = load(EXPECTED, "fractals", DESIGN).histories
    before = before[before["seed"] < 6]
    after = changed(before, "Model3", train_loss=1.3, val_accuracy=0.9, seconds=2.0)
    after = changed(after, "lr_Model5", val_loss=0.8)
    sides = {"main": (before, "2.5.0"), "patch": (after, "2.6.0")}
    return moves(*(side(name, rows, design=DESIGN, versions={"torch": torch}) for name, (rows, torch) in sides.items()))


def plain(markdown: str) -> str:
    return " ".join(re.sub(r"\*\*|\\", "", markdown).split())


def test_tables_and_sentences_are_the_markdowns(moved: Moves) -> None:
    text, root = markdown(moved), parse(page(moved))
    shown = {one.attributes["id"]: one.all("table")[0].cells for one in root.everything
             if one.attributes.get("id", "").startswith("table-")}  # fmt: skip
    assert shown.pop("table-numbers")[0] == ["configuration", "number", "A", "B", "change", "allowed", "against"]
    tables = [[[plain(cell) for cell in row] for row in cells(part)] for part in re.findall(TABLE, text)]
    assert [*shown.values()] == tables
    assert [*shown] == [f"table-{name}" for name in (
        "worse-numbers", "worse-verdicts", "unsettled-numbers", "better-verdicts", "seconds"
    )]  # fmt: skip
    said = " ".join(root.text.split())
    for paragraph in re.split(r"\n+- |\n\n+", re.sub(TABLE, "", text))[1:]:
        if not paragraph.startswith("#"):
            assert plain(paragraph) in said, paragraph
