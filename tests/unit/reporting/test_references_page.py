"""Several references as one page: the markdown's verdicts and numbers, curves beside each other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.findings.clauses import format_margin
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import below
from kvbench.reference import verdicts
from kvbench.reference.store import Reference
from kvbench.reporting.figures import MOST_LINES
from kvbench.reporting.references_page import references_page
from kvbench.reporting.side_by_side import SideBySide, side_by_side
from kvbench.results import history
from tests.support import DESIGN, EXPECTED
from tests.support.commands import Call
from tests.support.pages import Element, parse
from tests.support.tables import cells, rows

MIB = 2**20
WORKLOADS = ("imagenet", "tiny-imagenet", "fractals")


@pytest.fixture(scope="module")
def together() -> SideBySide:
    return side_by_side(EXPECTED, WORKLOADS, DESIGN)


@pytest.fixture(scope="module")
def html(together: SideBySide) -> str:
    return references_page(together)


@pytest.fixture(scope="module")
def parsed(html: str) -> Element:
    return parse(html)


def unmarked(markdown: str) -> list[list[str]]:
    return [[re.sub(r"\*+|\\", "", cell) for cell in row] for row in cells(markdown)]


def table(root: Element, name: str, *, means: bool = False) -> list[list[str]]:
    (found,) = [one for one in root.everything if one.attributes.get("id") == f"table-{name}"]
    return found.all("table")[0].means if means else found.all("table")[0].cells


def section(root: Element, name: str) -> Element:
    (found,) = [one for one in root.all("section") if one.attributes.get("id") == name]
    return found


def made(name: str, design: Design, frame: object) -> Reference:
    empty = history.frame([])
    return Reference(name, design, Path(name), frame, verdicts.frame([]), {}, empty, "")  # type: ignore[arg-type]


def test_the_map_has_the_markdowns_verdicts_and_the_deciding_margins(parsed: Element, together: SideBySide) -> None:
    told = [row[-1 - len(WORKLOADS) :] for row in table(parsed, "verdicts")[1:]]
    markdown = unmarked(together.markdown())[1:]
    assert [row[0] for row in told] == [row[1] for row in markdown], "recipes"
    for mine, theirs, (*_, judged) in zip(told, markdown, together.judgements, strict=True):
        for square, verdict, judgement in zip(mine[1:], theirs[2:], judged, strict=True):
            assert square.startswith(verdict)
            assert judgement is not None
            assert judgement.deciding is not None
            clause = judgement.deciding
            assert format_margin(clause.margin, clause.scale) in square
            if judgement.tested:
                assert f"({format_margin(clause.low, clause.scale)} to " in square
            else:
                assert square.endswith("by sign")
    squares = [one for one in parsed.all("td") if "square" in one.attributes.get("class", "")]
    assert all(one.text.partition(" ")[0] in one.attributes["class"] for one in squares)


def test_tables_and_provenance_are_the_markdowns(parsed: Element, together: SideBySide) -> None:
    for place, part in enumerate(re.split(r"^## (?!Verdicts)", together.markdown(), flags=re.MULTILINE)[1:], 1):
        for metric, heading in (("train_loss", "Training loss (nat"), ("val_accuracy", "Validation accuracy")):
            assert table(parsed, f"{metric}-{place}", means=True) == unmarked(part[part.index(heading) :])
    text = " ".join(section(parsed, "provenance").text.split())
    assert "torchvision's pretrained ResNet18" in text
    assert [one.text for one in section(parsed, "provenance").all("h3")] == [*WORKLOADS]


def test_curves_stand_beside_each_other_each_recipe_a_row(parsed: Element) -> None:
    (panels, other) = [one for one in section(parsed, "train_loss").all("div") if "panels" in one.attributes["class"]]
    assert panels.attributes["class"] == "panels across-3"
    names = [f"{workload}, {recipe}" for recipe in ("StepLR", "constant lr") for workload in WORKLOADS]
    assert [one.text for one in panels.all("figcaption")] == names
    assert [one.text for one in other.all("figcaption")] == names
    losses = section(parsed, "val_loss")
    assert [one.text for one in losses.all("figcaption")][:2] == ["tiny-imagenet, StepLR", "fractals, StepLR"]
    assert "imagenet has no numbers for it." in losses.text


def test_every_finding_is_told_once_with_each_workload(parsed: Element, together: SideBySide) -> None:
    articles = parsed.all("article")
    assert [one.all("h3")[0].text.split("”")[0][1:] for one in articles] == [
        finding.sentence for finding in DESIGN.findings.values()
    ]
    assert sum(len(one.all("li")) for one in articles) == len(together.judgements) * len(WORKLOADS)
    assert "StepLR, fractals" in articles[0].text


def test_the_command_writes_it(call: Call, html: str) -> None:
    words = [word for name in WORKLOADS for word in ("--expected", name)]
    told = call("report", *words, "--folder", EXPECTED, "--html", "page.html")
    assert (told.code, told.out) == (0, "page.html\n"), told.err
    assert Path("page.html").read_text() == html


def test_what_it_points_to_is_there(parsed: Element) -> None:
    ids = [one.attributes["id"] for one in parsed.everything if "id" in one.attributes]
    assert len(ids) == len({*ids})
    assert {one.attributes["href"][1:] for one in parsed.all("a")} <= {*ids}


def test_three_references_of_fourteen_configurations_take_less_than_a_mebibyte(html: str) -> None:
    assert len(html.encode()) < 0.6 * MIB


def test_a_student_has_one_style_in_all_references() -> None:
    design = Design("mine", {"": {name: name for name in ("a", "b", "c")}})
    two = [made(name, design, history.frame(row for s in names for row in rows(s, [1.0, 0.5], [0.1, 0.2])))
           for name, names in (("one", ("b", "c")), ("two", ("a", "c")))]  # fmt: skip
    root = parse(references_page(SideBySide(two, design)))
    strokes = [
        {line.attributes["stroke"] for line in group.all("polyline")}
        for group in section(root, "train_loss").all("g")
        if group.attributes.get("data-c") == "c" and "data-x" in group.attributes
    ]
    assert len(strokes) > 2
    assert all(stroke == strokes[0] for stroke in strokes)


def test_what_a_reference_lacks_is_no_result(together: SideBySide) -> None:
    one = together.references[0]
    half = replace(one, histories=history.of(one.histories, "Model1"))
    root = parse(references_page(SideBySide([half, one], DESIGN)))
    first = [row[-2:] for row in table(root, "verdicts")[1:]]
    assert {row[0] for row in first} == {"-"}
    assert all(row[1] != "-" for row in first)


def test_nothing_of_a_reference_reaches_it_unescaped() -> None:
    bad = "<script>alert(1)</script>"
    design = Design("bad", {bad: {bad: bad, "b": "b"}}, findings={"f": Finding("f", bad, below(bad, "b"))})
    frame = history.frame(row for name in (bad, "b") for row in rows(name, [1.0, 0.5], [0.1, 0.2]))
    text = references_page(SideBySide([made(f"{bad}\x1b", design, frame)] * 2, design))
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "alert(1)" in text


def test_five_hundred_configurations_make_a_bounded_page() -> None:
    students = [f"student-{number:03}" for number in range(250)]
    design = Design("wide", {name: {s: f"{s}-{name}" for s in students} for name in ("a", "b")},
                    findings={"all": Finding("all", "the first is best", below(students[0], "all"))})  # fmt: skip
    frame = history.frame(row for number, name in enumerate(design.names)
                          for row in rows(name, [2.0 / e + number / 1e3 for e in range(1, 31)], [0.5] * 30,
                                          val_loss=0.5, agreement=0.5, seconds=1.0))  # fmt: skip
    text = references_page(SideBySide([made(name, design, frame) for name in ("one", "two")], design))
    assert len(text.encode()) < 4 * MIB
    assert f"one: Of 250 configurations with a the {MOST_LINES} with the lowest last training loss" in parse(text).text
