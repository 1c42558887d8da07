"""What a session's end says: on one screen, while the report has it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import better
from kvbench.harness.result import Result
from kvbench.harness.summary import summarize
from kvbench.reference.store import load
from kvbench.reference.update import rejudge, update
from kvbench.reporting.report import conclusion
from kvbench.reporting.screen import Line
from kvbench.results.saved import Outcome
from tests.support import DESIGN
from tests.support.collected import collected
from tests.support.references import edit
from tests.support.synthetic import reference, runs

LONG = "a-name-that-somebody-chose-for-what-it-says-and-not-its-size"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with a reference of twenty seeds."""
    reference(tmp_path / "expected")
    return tmp_path / "expected"


def shown(
    folder: Path,
    frame: pd.DataFrame,
    design: Design = DESIGN,
    *,
    select: Sequence[str] = (),
    recording: bool = False,
    verbose: bool = False,
) -> tuple[Result, list[Line], str]:
    """The result, the lines of the terminal and the report; every line fits, and so do all of them."""
    collector, result = collected(folder, "synthetic", design, frame, select=select, update=recording)
    path = folder.parent / "report.md"
    lines = summarize(collector, result, path, verbose=verbose)
    screen = [one for line in lines for one in line.text.split("\n")]
    commands = [line for line in screen if "pytest " in line or str(path) in line]  # there to be copied
    assert verbose or all(len(line) <= 100 for line in screen if line not in commands)
    assert verbose or len(screen) <= 30
    return result, lines, path.read_text()


def text(lines: Sequence[Line]) -> str:
    return "\n".join(line.text for line in lines)


def test_seeds_that_repeat_the_reference_show_its_verdicts_though_they_decide_little(recorded: Path) -> None:
    result, lines, report = shown(recorded, runs(range(2)))
    assert result.outcome is Outcome.PASSED
    assert "Curves: 14 of 14 configurations are as recorded (2 of the reference's 20 seeds)." in text(lines)
    assert "Findings: 15 of 15 verdicts are as recorded." in text(lines)
    rows = [line.text for line in lines if "as recorded  " in line.text]
    assert len(rows) == 15
    known = [judgement.verdict for judgement in load(recorded, "synthetic", DESIGN).judgements]
    assert [row for row in rows if "undecided" in row] == [row for row, verdict in zip(rows, known, strict=True)
                                                           if verdict == "undecided"]  # fmt: skip
    assert rows[0].split() == [
        "simple-converges-faster", "StepLR", "holds,", "as", "recorded", *rows[0].split()[5:]
    ]  # fmt: skip
    assert "| undecided (" in report  # what these two seeds say alone
    assert "p = " in report
    assert "p = " not in text(lines)
    assert all(not any(line.markup.values()) for line in lines)


def test_what_drifted_is_red_says_where_to_look_and_how_to_accept_and_the_report_has_its_numbers(
    recorded: Path,
) -> None:
    frame = runs(range(5))
    frame.loc[frame["configuration"] == "Model3", "train_loss"] *= 1.05
    result, lines, report = shown(recorded, frame)
    assert result.outcome is Outcome.FAILED
    assert result.checks["Model3"].text.startswith("Model3 on synthetic: train_loss, ")
    assert "is outside the reference: 0.2" in result.checks["Model3"].text
    (look,) = [line for line in lines if line.text.startswith("WHERE TO LOOK: 1 of 14 configurations drifted.")]
    assert look.markup == {"red": True, "yellow": False}
    assert "If this change is meant to be: pytest benchmarks/" in text(lines)
    assert "--kvbench-seeds 20 --kvbench-update-expected" in text(lines)
    assert "13 of 14 configurations are within the reference." in report
    assert ">>  train_loss, last epoch" in report
    assert "All epochs, obtained / expected" in report
    assert "Model4 on synthetic" not in report


def test_a_changed_verdict_is_told_with_the_recorded_one(recorded: Path) -> None:
    edit(recorded / "synthetic" / "verdicts.csv", "simple-is-best,StepLR,Model1-loss,holds",
         "simple-is-best,StepLR,Model1-loss,fails")  # fmt: skip
    result, lines, report = shown(recorded, runs(range(20)))
    (row,) = [line for line in lines if "was mixed 3/4" in line.text]
    assert row.text.startswith("simple-is-best")
    assert "holds, was mixed 3/4" in row.text
    assert row.markup["red"]
    assert result.checks["simple-is-best"].text == (
        "simple-is-best (StepLR), Model1-loss: recorded as fails, now holds"
    )
    told = " ".join(report.replace("\\", "").split())
    assert "Model1-loss: recorded as fails, now holds: lr_Model1's training loss is below every" in told


def test_new_seeds_that_cannot_tell_are_yellow_and_ask_for_more(recorded: Path) -> None:
    result, lines, _ = shown(recorded, runs(range(100, 102)))
    assert result.outcome is Outcome.PASSED
    assert "(2 seeds, new, against 20)" in text(lines)
    rows = [line for line in lines if "undecided, was holds" in line.text]
    assert rows
    assert all(row.markup == {"red": False, "yellow": True} for row in rows)
    assert "NOT CONFIRMED by 2 seeds: " in text(lines)
    assert "More seeds:\n  pytest benchmarks/ --kvbench-seeds 8" in text(lines)


def test_without_a_reference_verdicts_stand_alone(tmp_path: Path) -> None:
    result, lines, _ = shown(tmp_path / "expected", runs(range(8)))
    assert result.outcome is Outcome.FAILED
    assert "recorded" not in text(lines)
    assert "Curves" not in text(lines)
    (reason,) = result.reasons  # said once, and not by each of the tests
    assert reason.startswith("FAILED: There is no reference for synthetic in ")
    assert {check.text for check in result.checks.values()} == {
        f"{name} has nothing to be compared with: the end says why." for name in result.checks
    }
    assert any(line.text.split()[:3] == ["simple-converges-faster", "StepLR", "holds"] for line in lines)


def test_a_finding_that_is_new_is_not_recorded_and_one_without_findings_has_no_table(recorded: Path) -> None:
    more = replace(DESIGN, findings={**DESIGN.findings, "new": Finding("new", "it is", better("Model1", "Model3"))})
    result, lines, _ = shown(recorded, runs(range(20)), more)
    assert result.checks["new"].outcome is Outcome.FAILED
    assert "StepLR       holds, not recorded" in next(line.text for line in lines if line.text.startswith("new "))
    none = replace(DESIGN, findings={})
    rejudge(recorded, "synthetic", none)
    _, lines, _ = shown(recorded, runs(range(20)), none)
    assert "Curves: 14 of 14" in text(lines)
    assert not any(line.text.startswith(("finding", "Findings")) for line in lines)


def test_a_selection_says_what_was_not_compared(recorded: Path) -> None:
    result, lines, _ = shown(recorded, runs(range(2)), select=["Model1"])
    assert result.outcome is Outcome.INCOMPLETE
    assert "Curves: 1 of 1 configurations are as recorded" in text(lines)
    assert "NOT COMPARED with the reference: lr_Model1, " in text(lines)
    assert " more." in text(lines)


def test_a_recording_run_says_that_it_recorded(recorded: Path) -> None:
    result, lines, report = shown(recorded, runs(range(8)), recording=True)
    assert (result.outcome, result.fails) == (Outcome.RECORDED, True)
    assert result.reasons[0].startswith("This run fails by design, so that no reference changes unnoticed")
    assert "# kvbench: synthetic\n\nThis run wrote the reference, as it was asked to.\n" in report
    assert "FAILED" not in report + text(lines)
    assert conclusion({"outcome": "recorded", "reasons": ["anything"]}) == (
        "This run wrote the reference, as it was asked to.", [],
    )  # fmt: skip


def test_one_seed_is_said_to_allow_no_test(recorded: Path) -> None:
    _, lines, _ = shown(recorded, runs([100]))
    assert "Verdicts are by the sign of a difference: one seed allows no test." in text(lines)


def test_verbose_shows_the_report_before_the_same_lines(recorded: Path) -> None:
    _, brief, report = shown(recorded, runs(range(2)))
    _, lines, _ = shown(recorded, runs(range(2)), verbose=True)
    assert text(lines) == f"{report}\n{text(brief)}"


def renamed(name: Callable[[str], str]) -> tuple[Design, pd.DataFrame]:
    """Two students of the design in one recipe, called otherwise, and forty findings about them."""
    one, two = name("one"), name("two")
    ids = [name(f"finding-{number}") for number in range(40)]
    findings = {row: Finding(row, "one is better", better(one, two)) for row in ids}
    design = Design("mine", {name("recipe"): {one: one, two: two}}, findings=findings)
    frame = runs(range(20), ["Model1", "Model5"])
    return design, frame.replace({"configuration": {"Model1": one, "Model5": two}})


@pytest.mark.parametrize("name", [lambda short: short, lambda short: f"{LONG}-{short}"])
def test_many_findings_and_long_names_stay_on_the_screen(tmp_path: Path, name: Callable[[str], str]) -> None:
    design, frame = renamed(name)
    update(tmp_path / "expected", "synthetic", design, frame, {"random_numbers": "here"}, full=True)
    path = tmp_path / "expected" / "synthetic" / "verdicts.csv"
    last = path.read_text().splitlines()[-1]
    edit(path, last, last.replace(",holds,", ",fails,"))
    _, lines, report = shown(tmp_path / "expected", frame, design)
    changed = [line for line in lines if line.markup["red"]]
    assert [line.text for line in changed if "holds, was mixed 1/2" in line.text]
    assert "more, which the report has: " in text(lines)
    assert all(finding in report for finding in design.findings)


def test_a_line_names_both_ends_of_a_long_name(tmp_path: Path) -> None:
    design, frame = renamed(lambda short: f"{LONG}-{short}")
    _, lines, _ = shown(tmp_path / "expected", frame, replace(design, findings=dict([*design.findings.items()][:2])))
    rows = [line.text for line in lines if line.text.startswith("a-name-that-som")]
    assert [row.split()[0] for row in rows] == ["a-name-that-som…size-finding-0", "a-name-that-som…size-finding-1"]
