"""The report as a page of HTML."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.judge import judge
from kvbench.findings.vocabulary import below
from kvbench.reference.store import Reference, load
from kvbench.reporting.contents import Contents, of_expected, of_saved
from kvbench.reporting.figures import MOST_LINES
from kvbench.reporting.html import page
from kvbench.results import history, saved
from kvbench.results.saved import Outcome
from tests.support import DESIGN, EXPECTED, ROOT
from tests.support.commands import Call
from tests.support.pages import Element, parse, run_of
from tests.support.saved_runs import benchmark, content
from tests.support.saved_runs import run_of as saved_content
from tests.support.tables import cells, rows

MIB = 2**20
BAD = "<script>alert('x')</script>\" onload=\"alert(1)\" ' & {{ 7 * 7 }} ]]> \x1b[31m \u202egnp.exe \x00"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return load(EXPECTED, "fractals", DESIGN)


@pytest.fixture(scope="module")
def run(reference: Reference) -> Contents:
    """A run of four recorded seeds that lost some loss, on other versions, against the reference of fractals."""
    return run_of(reference, versions={**reference.provenance["versions"], "torch": "2.6.0"})


@pytest.fixture(scope="module")
def html(run: Contents) -> str:
    return page(run)


@pytest.fixture(scope="module")
def parsed(html: str) -> Element:
    return parse(html)


def unmarked(markdown: str) -> list[list[str]]:
    """The first table of a text without what only marks it as markdown."""
    return [[re.sub(r"\*+|\\", "", cell) for cell in row] for row in cells(markdown)]


def tables_of(root: Element) -> dict[str, list[list[str]]]:
    return {one.attributes["id"]: one.all("table")[0].means for one in root.everything
            if one.attributes.get("id", "").startswith(("table-", "clauses-"))}  # fmt: skip


def saved_of(histories: pd.DataFrame, reference: Reference, folder: Path) -> saved.Saved:
    """A saved run with these histories, made from what the reference was."""
    facts: dict[str, Any] = {"fingerprints": reference.fingerprints, "random_numbers": reference.rng_fingerprint}
    (folder / "run.json").write_text(json.dumps(saved_content(histories, workload="fractals", **facts)))
    return saved.read(folder / "run.json")


# What it says


def test_text_and_numbers_are_the_markdowns(run: Contents, parsed: Element) -> None:
    markdown, shown = run.markdown(), tables_of(parsed)
    for name, heading in (("verdicts", "## Verdicts"), ("train_loss", "Training loss (nat"),
                          ("val_accuracy", "Validation accuracy"), ("seconds", "## Seconds")):  # fmt: skip
        assert shown[f"table-{name}"] == unmarked(markdown[markdown.index(heading) :]), name
    for name in ("verdicts", "train_loss", "val_loss", "val_accuracy", "agreement", "time", "seconds", "tolerances"):
        assert shown[f"table-{name}"] == unmarked(run.table(name).markdown()), name
    parts = markdown.split("\n#### ")[1:]
    assert len(parts) == 15
    for number, part in enumerate(parts, 1):
        assert shown[f"table-clauses-{number}"] == unmarked(part), part[:80]
        assert part.partition("\n")[0] in parsed.text
    about = markdown[: markdown.index("## Tables")]
    facts = [re.sub(r"\\", "", " ".join(fact.split())) for fact in re.split(r"\n- ", about)[2:]]
    (provenance,) = [one for one in parsed.everything if one.attributes.get("id") == "provenance"]
    names, values = ([" ".join(one.text.split()) for one in provenance.all(kind)] for kind in ("dt", "dd"))
    pairs = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]
    assert pairs[: len(facts)] == facts


def test_a_mean_has_the_lowest_and_the_highest_seed_beside_it(run: Contents, parsed: Element) -> None:
    for metric in ("train_loss", "val_loss", "val_accuracy", "agreement"):
        (table,) = [one for one in parsed.everything if one.attributes.get("id") == f"table-{metric}"]
        epochs = [int(one) for one in table.all("table")[0].cells[0][1:]]
        shown = {}
        for row in table.all("tr")[1:]:
            name, *numbers = (cell for cell in row.inside if cell.name in {"th", "td"})
            for epoch, cell in zip(epochs, numbers, strict=True):
                shown[name.text, epoch] = cell.all("small")[0].text
        seeds = run.histories[run.histories["epoch"].isin(epochs)].groupby(["configuration", "epoch"])[metric]
        assert shown == {key: f"({cells.min():.3f} to {cells.max():.3f})" for key, cells in seeds}
    assert "In brackets: the lowest and the highest seed." in parsed.text
    alone = parse(page(of_expected(EXPECTED, "imagenet", DESIGN)))
    assert "In brackets" not in alone.text, "one seed has no range"
    assert not [one for one in alone.all("td") if one.all("small")]


def test_findings_come_first_as_sentences_with_verdict_margin_interval_and_n(parsed: Element, run: Contents) -> None:
    articles = parsed.all("article")
    assert [one.all("h3")[0].text.split("”")[0][1:] for one in articles] == [
        finding.sentence for finding in DESIGN.findings.values()
    ]
    said = [item.text for article in articles for item in article.all("li")]
    assert len(said) == len(run.judgements)
    for text, judgement in zip(said, run.judgements, strict=True):
        assert judgement.verdict in text
        assert judgement.held in text
        assert re.search(r"margin \S+( epochs)?, 95% interval .+ to .+, 4 seeds", text)
    order = [one.attributes["id"] for one in parsed.all("section")]
    assert order[:3] == ["findings", "legend", "train_loss"]
    assert order[-4:] == ["tables", "clauses", "surroundings", "provenance"]
    assert {"time-epochs", "time-seconds", "time-flops", "loss-accuracy", "seconds"} < {*order}


def test_verdicts_stand_beside_the_recorded_ones_in_the_same_words_everywhere(run: Contents, parsed: Element) -> None:
    said = [" ".join(item.text.split()) for article in parsed.all("article") for item in article.all("li")]
    words = [row[2] for row in unmarked(run.markdown()[run.markdown().index("## Verdicts") :])[1:]]
    assert words == [one.words for one in run.standings]
    for text, one, mine in zip(said, run.standings, words, strict=True):
        assert text.partition(" ")[2].startswith(mine), "behind its mark"
        assert f"Recorded: {one.before}." in text
        assert (f"These seeds alone: {one.alone}." in text) == (one.verdict != one.judgement.verdict)
    assert "holds, as recorded" in words
    classes = [
        item.all("span")[0].attributes["class"] for article in parsed.all("article") for item in article.all("li")
    ]
    assert classes == [f"verdict {one.verdict}" for one in run.standings]


def test_a_saved_run_of_recorded_seeds_says_so_in_markdown_too(reference: Reference, tmp_path: Path) -> None:
    histories = reference.histories[reference.histories["seed"] < 4]
    told = of_saved(saved_of(histories, reference, tmp_path), DESIGN, EXPECTED)
    assert {one.words.partition(", ")[2] for one in told.standings} == {"as recorded"}
    markdown = told.markdown()
    assert "holds, as recorded" in markdown
    assert "14 of 14 configurations are within the reference." in markdown
    assert "holds, as recorded" in parse(page(told)).text


def test_a_run_says_what_left_the_reference_and_how_its_surroundings_differ(parsed: Element) -> None:
    (section,) = [one for one in parsed.everything if one.attributes.get("id") == "surroundings"]
    assert "13 of 14 configurations are within the reference." in section.text
    assert "Model3 on fractals: train_loss, whole curve; train_loss, last epoch are outside" in section.text
    assert "torch 2.6.0 (recorded: 2.14.1)" in section.text
    assert sum(row[-1] == "DRIFTED" for row in tables_of(parsed)["table-tolerances"]) == 2
    assert "This run FAILED: do not use it as a baseline." in parsed.text


def test_the_legend_is_in_the_groups_of_the_study(parsed: Element) -> None:
    (legend,) = [one for one in parsed.all("section") if one.attributes["id"] == "legend"]
    assert [item.text for item in legend.all("li")] == [
        "simple:", "Model1", "Model2", "memory:", "Model3", "Model4", "Model5", "Model6", "Model7",
    ]  # fmt: skip
    frame = history.frame([*rows("Model3", [1.0], [0.5]), *rows("Mine", [1.0], [0.5])])
    items = parse(page(Contents(frame, DESIGN, [], {}))).all("li")
    groups = [item.text for item in items if item.attributes.get("class") == "group"]
    assert groups == ["memory:", "others:"]


def test_both_scales_are_there_without_a_script(parsed: Element) -> None:
    curves = [one for one in parsed.all("section") if one.attributes["id"] in {"train_loss", "agreement"}]
    for section in curves:
        assert [len(section.all("figure")), len(section.all("details"))] == [4, 1]
        titles = [one.text for one in section.all("title")]
        assert sum("logarithmic" in title for title in titles) == 2
        assert len(titles) == 4


def test_every_picture_has_a_title_a_description_and_a_table(parsed: Element) -> None:
    ids = [one.attributes["id"] for one in parsed.everything if "id" in one.attributes]
    assert len(ids) == len({*ids})
    for picture in parsed.all("figure"):
        (svg, *_) = picture.all("svg")
        assert svg.attributes["role"] == "img"
        assert {*svg.attributes["aria-labelledby"].split()} <= {*ids}
        assert "Model7" in svg.all("desc")[0].text
    links = [one.attributes["href"] for one in parsed.all("a")]
    assert {link[1:] for link in links} <= {*ids}
    assert all(link.startswith("#") for link in links)


def test_the_pictures_are_xml_on_their_own(html: str) -> None:
    pictures = re.findall(r"<figcaption>.*?</figcaption>(<svg.*?</svg>)</figure>", html, flags=re.DOTALL)
    assert len(pictures) == 26
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        numbers = re.findall(r"-?\d+\.?\d*", " ".join(e.get("points", "") for e in root.iter()))
        assert all(abs(float(number)) < 2000 for number in numbers)


def test_the_reference_stands_behind_and_bands_are_of_seeds(html: str) -> None:
    # of every student with each recipe, in four metrics on two scales and in loss against accuracy
    assert html.count('stroke-dasharray="1 3"') == 7 * 2 * (4 * 2 + 1)
    # of the run alone: grey bands behind coloured ones could not be told apart
    assert html.count("<polygon") == 7 * 2 * 4 * 2
    assert not re.search(r'<polygon[^>]*fill="currentColor"', html)
    alone = page(of_expected(EXPECTED, "imagenet", DESIGN))
    assert 'stroke-dasharray="1 3"' not in alone
    assert "<polygon" not in alone, "one seed has no band"
    assert "<polygon" in html
    assert "This is the reference itself." in alone


def test_seconds_of_other_hardware_do_not_stand_behind_a_run(reference: Reference, parsed: Element) -> None:
    def section(root: Element) -> Element:
        (found,) = [one for one in root.all("section") if one.attributes["id"] == "time-seconds"]
        return found

    def hollow(root: Element) -> int:
        return sum(one.attributes["fill"] == "none" for one in section(root).all("circle"))

    other = parse(page(run_of(reference, hardware="cpu, x86_64, 96 processors")))
    assert (hollow(parsed) > 0, hollow(other)) == (True, 0)
    hardware = reference.provenance["hardware"]
    said = f"Of the reference no seconds are shown: they are of other hardware ({hardware})."
    assert said in section(other).text
    assert said not in section(parsed).text
    assert "Hollow" not in section(other).text


# What it may do


def test_it_allows_itself_its_own_style_and_script_and_nothing_else(html: str, parsed: Element) -> None:
    (policy,) = [one.attributes["content"] for one in parsed.all("meta") if "http-equiv" in one.attributes]
    for kind, name in (("style", "style-src"), ("script", "script-src")):
        (element,) = re.findall(rf"<{kind}>(.*?)</{kind}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(element.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for element in parsed.everything:
        assert not element.attributes.get("href", "#").strip().lower().startswith(("http", "javascript"))
        assert "src" not in element.attributes
        assert "style" not in element.attributes


def test_nothing_from_a_file_reaches_the_page_unescaped() -> None:
    names = ["<b>one</b>", BAD[:190], "two\u2028lines"]
    histories = history.frame(row for seed in (0, 1) for name in names
                              for row in rows(name, [2.0 + seed, 1.0], [0.1, 0.2], seed=seed, seconds=1.0))  # fmt: skip
    seen = "".join(filter(str.isprintable, BAD)).strip()  # another id is refused
    findings = {seen: Finding(seen, BAD, below(names[0], names[1]))}
    design = Design(BAD, {BAD: {name: name for name in names}}, {}, findings)
    facts = {"workload": BAD, BAD: BAD, "versions": {BAD: [BAD, {BAD: BAD}]}, "notes": BAD}
    text = page(
        Contents(histories, design, judge(histories, design), facts, {}, {"outcome": "failed", "reasons": [BAD]})
    )
    root = parse(text)
    assert [len(root.all(name)) for name in ("script", "style", "b")][:2] == [1, 1]
    assert not [name for one in root.everything for name in one.attributes if name.startswith("on")]
    assert {one.text for one in root.all("b")}.isdisjoint({"one"})
    assert not [char for char in text if not char.isprintable() and char != "\n"]
    assert "alert('x')" in root.text, "it is there, as text"
    assert "{{ 7 * 7 }}" in root.text
    assert "\\u202egnp.exe" in root.text
    assert "\\x1b[31m" in root.text


def test_a_saved_file_of_bad_names_makes_a_safe_page(call: Call) -> None:
    name = "</title><img src=x onerror=alert(1)>\u202e"
    Path("bad.json").write_text(json.dumps(content(benchmark(name, recipe={"lr": "<script>"}))))
    told = call("report", "bad.json", "--html", "page.html")
    assert (told.code, told.out) == (0, "page.html\n"), told.err
    root = parse(Path("page.html").read_text())
    assert root.all("img") == []
    assert len(root.all("script")) == 1
    assert "\\u202e" in root.text


# Of any run


@pytest.mark.parametrize(
    "losses",
    [[0.5], [math.nan, math.nan], [1.0, math.inf], [1.0, math.nan, 0.5], [0.0, 0.0], [2.0, 1e300], [1e-300, 1e300]],
    ids=["one epoch", "no number", "diverged", "a gap", "zero", "huge", "wide"],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_there_is_a_page_whatever_the_numbers_are(losses: list[float], seeds: int, reference: Reference) -> None:
    usual, shares = [1.0 / (epoch + 1) for epoch in range(len(losses))], [0.5] * len(losses)
    frame = history.frame(row for seed in range(seeds) for name in ("Model1", "Model3", "lr_Model1", "Mine")
                          for row in rows(name, losses if name == "Model3" else usual, shares, seed=seed))  # fmt: skip
    facts = {"workload": "fractals"}
    for against in (None, reference):
        made = Contents(frame, DESIGN, judge(frame, DESIGN), facts, {}, {"outcome": "incomplete"}, against)
        text = page(made)
        root = parse(text)
        assert tables_of(root)["table-train_loss"] == unmarked(made.table("train_loss").markdown())
        drawn = " ".join(
            value for one in root.all("svg")[1:] for e in one.everything for value in e.attributes.values()
        )
        assert not re.search(r"\b(nan|inf)\b", drawn)


@pytest.mark.parametrize(
    "odd", [None, [], {}, "x", -1, [None], ["x"], {"a": [{}]}, {"seeds": "x"}, math.nan, 10**30], ids=repr
)
def test_facts_of_any_kind_are_shown(odd: Any, reference: Reference) -> None:
    frame = history.frame(rows("Model1", [1.0] * 10, [0.5] * 10))
    names = ("fingerprints", "seeds", "random_numbers", "versions", "hardware", "numerics", "recipe", "partial_updates")
    outcome = {"outcome": Outcome.UNKNOWN, "reasons": [odd]}
    made = Contents(frame, DESIGN, [], {"workload": "fractals", **dict.fromkeys(names, odd)}, {}, outcome, reference)
    assert "does not say whether it passed" in parse(page(made)).text


def test_a_configuration_without_numbers_is_said_not_to_be_drawn() -> None:
    frame = history.frame([*rows("Model1", [1.0, 0.5], [0.1, 0.2]), *rows("Model3", [math.nan] * 2, [0.1, 0.2])])
    root = parse(page(Contents(frame, DESIGN, [], {})))
    (section,) = [one for one in root.all("section") if one.attributes["id"] == "train_loss"]
    assert "Not drawn, as there is no number for some seed: Model3." in section.text
    assert "No finding could be judged" in root.text


def test_fourteen_configurations_take_less_than_a_mebibyte(html: str) -> None:
    assert len(html.encode()) < 0.6 * MIB


def test_five_hundred_configurations_make_a_bounded_page() -> None:
    students = [f"student-{number:03}" for number in range(250)]
    design = Design("wide", {name: {s: f"{s}-{name}" for s in students} for name in ("a", "b")},
                    findings={"all": Finding("all", "the first is best", below(students[0], "all"))})  # fmt: skip
    frame = history.frame(row for number, name in enumerate(design.names) for seed in range(2)
                          for row in rows(name, [2.0 / e + number / 1e3 + seed / 1e4 for e in range(1, 121)],
                                          [0.5] * 120, seed=seed, val_loss=0.5, agreement=0.5,
                                          seconds=1.0))  # fmt: skip
    text = page(Contents(frame, design, judge(frame, design), {"workload": "wide"}, dict.fromkeys(design.names, 1e6)))
    assert len(text.encode()) < 3 * MIB
    root = parse(text)
    assert len(tables_of(root)["table-train_loss"]) == 501
    assert f"Of 250 configurations with a the {MOST_LINES} with the lowest last training loss are drawn." in root.text
    (section,) = [one for one in root.all("section") if one.attributes["id"] == "train_loss"]
    drawn = {one.attributes["data-c"] for one in section.all("g") if "data-x" in one.attributes}
    assert drawn == {*students[:MOST_LINES]}


# Where it comes from


def test_a_saved_run_gives_the_page_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content(benchmark("Model1"), benchmark("lr_Model1"))))
    made = of_saved(saved.read(path), DESIGN, EXPECTED)
    assert made.reference is not None
    assert made.outcome == {"outcome": Outcome.PASSED, "reasons": ()}
    root = parse(page(made))
    assert "This run passed." in root.text
    assert "the run was made from something else than the reference" in root.text
    nowhere = of_saved(saved.read(path), dataclasses.replace(DESIGN, shipped=""), tmp_path)
    assert nowhere.reference is None
    assert (
        "There was no reference to hold the run against. There is no reference for fractals"
        in parse(page(nowhere)).text
    )


def test_the_example_is_what_its_command_writes(call: Call) -> None:
    told = call("report", ROOT / "docs" / "example.json", "--folder", EXPECTED, "--html", "example.html")
    assert told.code == 0, told.err
    assert Path("example.html").read_text() == (ROOT / "docs" / "example.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--expected", "imagenet", "--html", "a.html", "--finding", "gelu-beats-relu"],
        ["--expected", "imagenet", "--html", "a.html", "--table", "seconds"],
        ["--expected", "imagenet", "--expected", "fractals", "--table", "seconds"],
        ["--expected", "imagenet", "--expected", "fractals", "--table", "verdicts", "--html", "a.html"],
    ],
)
def test_one_thing_is_shown_at_a_time(arguments: list[Any], call: Call) -> None:
    told = call("report", *arguments, "--folder", EXPECTED)
    assert told.code == 2
    assert re.match(r"Error: (--finding|--html|--finding, --html) and --table (each )?show ", told.err)
    assert not Path("a.html").exists()
