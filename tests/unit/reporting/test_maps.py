"""Maps of findings over a grid: as markdown, as tables, in a few words, as a picture."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from kvbench.findings.clauses import Verdict
from kvbench.reporting.heat_maps import LOOKS, heat_maps_chart, need_chart
from kvbench.reporting.maps import ORDER, Square, Sweep, in_short
from kvbench.utils.errors import UserError
from tests.support.grids import HELPS, SEEDS, STUDY, swept

HOLDS, FAILS, MIXED, UNDECIDED = ORDER


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plane(cache: Path) -> Sweep:
    """Two fields; a column of cells has no result for momentum."""
    return swept(cache, lr=(0.02, 0.08, 0.9), batch_size=(32, 64), epochs=2)


def test_a_map_of_two_fields_has_the_first_down_and_the_second_across(plane: Sweep) -> None:
    text = plane.markdown()
    section = text[text.index("## momentum-helps") : text.index("## both-help")]
    assert section.split("\n\n")[1] == (
        "momentum helps. Judged as: at the last epoch momentum's training loss is below plain's."
    )
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows[:5]]
    assert cells[0] == ["", "batch_size=32", "batch_size=64"]
    assert [row[0] for row in cells[2:]] == ["lr=0.02", "lr=0.08", "lr=0.9"]
    assert re.fullmatch(r"\*\*fails\*\* 0\.\d+x", cells[2][1])
    assert re.fullmatch(r"\*\*holds\*\* 1\.\d+x", cells[3][2])
    assert cells[4][1:] == ["no result", "no result"]
    assert section.count("**constant lr**") == section.count("**StepLR**") == 1
    assert "epochs, in all cells: 2" in text
    assert max(len(line) for line in text.splitlines() if "|" not in line) <= 120


def test_the_overview_counts_cells_and_says_what_tells_the_verdict(plane: Sweep) -> None:
    text = plane.markdown()
    row = next(line for line in text.splitlines() if line.startswith("| momentum-helps"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:3] == ["momentum-helps", "constant lr", "depends on lr"]
    assert cells[3:] == ["2", "2", "-", "-", "2", "holds in 2, fails in 2"]


def test_a_strip_has_a_column_for_each_recipe(cache: Path) -> None:
    text = swept(cache, lr=(0.02, 0.08)).markdown()
    section = text[text.index("## momentum-helps") : text.index("## both-help")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == ["lr", "constant lr", "StepLR"]
    assert [row[0] for row in rows[2:]] == ["0.02", "0.08"]


def test_further_fields_make_a_map_for_each_of_their_values(cache: Path) -> None:
    found = swept(cache, lr=(0.02, 0.08), batch_size=(32, 64), epochs=(2, 3))
    text = found.markdown()
    assert text.count("**constant lr, epochs=2**") == 3 - 1, "for each finding that is judged on one recipe"
    assert text.count("**both, epochs=3**") == 1
    assert len(found.squares(HELPS, "StepLR")) == 8


def test_all_verdicts_are_a_table_that_spreadsheets_and_programs_read(plane: Sweep, tmp_path: Path) -> None:
    page, verdicts, histories = plane.write(tmp_path / "out")
    assert page.read_text() == plane.markdown()
    frame = pd.read_csv(verdicts, keep_default_na=False)
    columns = ["finding", "recipe", "clause", "verdict", "margin", "low", "high", "n", "p", "level", "method"]
    assert list(frame.columns) == ["lr", "batch_size", "epochs", *columns, "shared", "problem"]
    judged = frame[frame["clause"] != ""]
    assert len(judged) == sum(len(j.gating) for cell in plane.cells for j in cell.judgements)
    first = judged.iloc[0]
    assert (first["lr"], first["finding"], first["verdict"], first["n"]) == (0.02, HELPS.id, "fails", str(SEEDS))
    assert float(first["low"]) < float(first["margin"]) < float(first["high"]) < 0
    lost = frame[frame["clause"] == ""]
    assert {(row.lr, row.finding) for row in lost.itertuples()} == {(0.9, "momentum-helps"), (0.9, "both-help")}
    assert all("is nan in epoch 1" in text for text in lost["problem"])
    assert len(pd.read_csv(histories)) == len(plane.histories)


def test_a_verdict_that_stands_over_all_cells_is_bold_and_others_are_not(cache: Path) -> None:
    found = swept(cache, findings=[HELPS.id], lr=tuple(0.04 + 0.0005 * step for step in range(12)))
    squares = [square for scope in found.scopes(HELPS) for square in found.squares(HELPS, scope).values()]
    decided = [square for square in squares if square.verdict in {"holds", "fails"}]
    sure = [square for square in decided if square.sure]
    assert 0 < len(sure) < len(decided) < len(squares)
    section = found.markdown().partition("## momentum-helps")[2].partition("## Cells")[0]
    assert section.count("**holds**") + section.count("**fails**") == len(sure)
    for cell in found.cells:
        for mine, ours in zip(cell.judgements, cell.shared, strict=True):
            (one,), (other,) = mine.gating, ours.gating
            assert one.level > other.level
            assert one.p == pytest.approx(other.p)


def test_one_seed_is_judged_by_its_sign_and_never_sure(cache: Path) -> None:
    found = swept(cache, seeds=1, lr=(0.02, 0.08))
    square = found.squares(HELPS, "constant lr")[("0.08",)]
    assert (square.verdict, square.sure) == ("holds", False)
    assert "seeds: 0; one seed is judged by its sign, without a test" in found.markdown()


def test_levels_are_told_with_their_numbers(plane: Sweep) -> None:
    text = " ".join(plane.markdown().split())
    assert "its 5 judgements share an error rate of 1% by Holm's procedure" in text
    assert "Over 6 cells up to 6% of sweeps have a wrongly decided judgement somewhere" in text


def test_the_cells_say_what_is_best_there(plane: Sweep) -> None:
    text = plane.markdown()
    rows = [line for line in text[text.index("## Cells") :].splitlines() if line.startswith("|")]
    assert rows[0].split("|")[1:3] == [" lr   ", " batch_size   "]
    assert "(plain)" in rows[2] or "(lr_plain)" in rows[2]
    assert "momentum)" in rows[4]


class Judged:
    """As much of a judgement as a map in short reads."""

    def __init__(self, verdict: Verdict):
        self.verdict = verdict


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ([HOLDS] * 4, "holds in every cell"),
        ([HOLDS, None, HOLDS, HOLDS], "holds in every cell with a result"),
        ([None] * 4, "no result"),
        ([UNDECIDED] * 4, "undecided in every cell"),
        ([MIXED, UNDECIDED, MIXED, MIXED], "decided in no cell"),
        ([HOLDS, UNDECIDED, MIXED, HOLDS], "holds in some cells, fails in none"),
        ([FAILS, UNDECIDED, MIXED, FAILS], "fails in some cells, holds in none"),
        ([HOLDS, HOLDS, FAILS, FAILS], "depends on lr"),
        ([HOLDS, UNDECIDED, FAILS, FAILS], "depends on lr"),
        ([HOLDS, FAILS, HOLDS, FAILS], "depends on size"),
        ([HOLDS, FAILS, FAILS, HOLDS], "depends on the cell"),
        ([HOLDS, UNDECIDED, UNDECIDED, FAILS], "depends on the cell"),
    ],
)
def test_a_map_in_a_few_words(verdicts: list[Any], words: str) -> None:
    places: list[tuple[str, ...]] = [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]
    squares = {
        place: Square(Judged(verdict) if verdict else None)  # type: ignore[arg-type]
        for place, verdict in zip(places, verdicts, strict=True)
    }
    assert in_short(squares, ["lr", "size"]) == words


def test_names_that_are_markdown_stay_names(cache: Path) -> None:
    finding = replace(HELPS, sentence="a | b <script> *c*")
    text = swept(cache, replace(STUDY, findings=(finding,)), lr=(0.02, 0.08)).markdown()
    assert "a \\| b \\<script> \\*c\\*. Judged as" in text


@pytest.mark.parametrize("fields", [{}, {"batch_size": (32, 64)}, {"batch_size": (32, 64), "epochs": (2, 3)}])
def test_a_picture_has_a_letter_and_a_number_in_each_square(
    fields: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    found = swept(cache, lr=(0.02, 0.08, 0.9), **fields)
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    with pytest.MonkeyPatch.context() as patch:
        import matplotlib as mpl

        patch.setitem(mpl.rcParams, "svg.fonttype", "none")
        heat_maps_chart(found, first)
        heat_maps_chart(found, second)
    assert first.read_bytes() == second.read_bytes()
    texts = [text.text for text in ElementTree.parse(first).iter("{http://www.w3.org/2000/svg}text")]
    cells = len(found.cells)
    squares = [
        square
        for finding in found.findings
        for scope in found.scopes(finding)
        for square in found.squares(finding, scope).values()
    ]
    assert len(squares) == 5 * cells
    for verdict, (_, _, letter) in LOOKS.items():
        assert texts.count(letter) == sum(square.verdict == verdict for square in squares), verdict
    for number in {square.number for square in squares if square.number}:
        assert texts.count(number) >= sum(square.number == number for square in squares)
    for finding in found.findings:
        assert f"{finding.id}: {finding.sentence}" in texts
    assert {"lr", "0.02", "0.08", "0.9", *fields} - {"epochs"} <= {*texts}


def test_a_picture_that_cannot_be_written_is_refused(plane: Sweep, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its suffix must be one of \.svg, \.pdf, \.png"):
        heat_maps_chart(plane, tmp_path / "a.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvbench.reporting.heat_maps.find_spec", lambda _: None)
        with pytest.raises(UserError, match=r"pip install 'kvbench\[plot\]'"):
            need_chart(tmp_path / "a.svg")


def test_colours_differ_for_whoever_sees_no_red_or_green() -> None:
    """Brightness alone tells holds, fails, mixed and undecided apart, beside their letters."""

    def brightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return float(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2)

    found = sorted(brightness(LOOKS[verdict.value][0]) for verdict in ORDER)
    assert all(b - a > 0.03 for a, b in itertools.pairwise(found)), found
    assert len({letter for _, _, letter in LOOKS.values()}) == len(LOOKS)
