from __future__ import annotations

import pandas as pd
import pytest

from kvbench.findings.judge import judge
from kvbench.reporting import report
from kvbench.reporting.contents import of_expected
from kvbench.results import history
from tests.support import DESIGN, EXPECTED
from tests.support.students import student_runs
from tests.support.tables import cells, rows

ORDER = [f"{prefix}Model{n}" for prefix in ("lr_", "") for n in range(1, 8)]


@pytest.fixture(scope="module")
def published() -> str:
    return of_expected(EXPECTED, "imagenet", DESIGN).markdown()


# Tables


def test_the_source_tables_show_all_140_numbers_in_the_source_order(published: str) -> None:
    source = pd.read_csv(EXPECTED / "imagenet" / "histories.csv")
    found = 0
    for title, metric in (("Training loss", "train_loss"), ("Validation accuracy", "val_accuracy")):
        head, *table = cells(published[published.index(title) :])
        assert head == ["configuration", "1", "2", "3", "5", "10"]
        assert [row[0] for row in table] == ORDER
        for name, *numbers in table:
            mine = source[source["configuration"] == name].sort_values("epoch")[metric]
            assert [number.strip("*") for number in numbers] == [f"{value:.3f}" for value in mine]
            found += len(numbers)
    assert found == 140


def test_the_source_tables_mark_the_best(published: str) -> None:
    _, *losses = cells(published[published.index("Training loss") :])
    marked = {name: numbers for name, *numbers in losses}
    assert marked["lr_Model1"] == ["0.868", "**0.145**", "**0.110**", "**0.095**", "**0.088**"]
    assert marked["lr_Model2"] == ["0.858", "0.146", "**0.110**", "0.096", "0.089"]
    assert marked["lr_Model4"] == ["0.829", "*0.351*", "*0.303*", "*0.288*", "*0.284*"]
    assert marked["Model7"] == ["***0.605***", "*0.352*", "0.341", "0.330", "0.320"]
    _, *accuracies = cells(published[published.index("Validation accuracy") :])
    marked = {name: numbers for name, *numbers in accuracies}
    assert marked["Model2"] == ["**0.685**", "0.690", "0.692", "**0.694**", "0.692"]
    assert marked["Model4"] == ["*0.630*", "*0.639*", "*0.641*", "*0.644*", "*0.646*"]


def test_marks_by_hand_on_a_small_frame() -> None:
    frame = history.frame(
        [
            *rows("Model3", [0.9, 0.5], [0.30, 0.40]),
            *rows("Mine", [0.8, 0.1], [0.10, 0.90]),
            *rows("Model1", [1.0, 0.4], [0.20, 0.50]),
            *rows("lr_Model1", [0.1, 0.1], [0.99, 0.99]),
            *rows("Model4", [0.9001, 0.6], [0.30, 0.30]),
            *rows("Other", [0.7, 0.7], [0.20, 0.20]),
        ]
    )
    text = report.tables(frame, DESIGN)
    assert cells(text[text.index("Training") :]) == [
        ["configuration", "1", "2"],
        ["lr_Model1", "**0.100**", "**0.100**"],  # a block of its own
        ["Model1", "1.000", "**0.400**"],
        ["Model3", "***0.900***", "*0.500*"],
        ["Model4", "***0.900***", "0.600"],  # what looks like a tie marks both
        ["Mine", "0.800", "**0.100**"],  # not the study's: below its rows, a block of their own
        ["Other", "**0.700**", "0.700"],
    ]
    assert cells(text[text.index("Validation") :])[2:] == [
        ["Model1", "0.200", "**0.500**"],
        ["Model3", "***0.300***", "*0.400*"],
        ["Model4", "***0.300***", "0.300"],
        ["Mine", "0.100", "**0.900**"],
        ["Other", "**0.200**", "0.200"],
    ]


def test_means_over_seeds_with_n_above() -> None:
    frame = history.frame([*rows("Model1", [0.1], [0.5]), *rows("Model1", [0.3], [0.6], seed=1)])
    text = report.tables(frame, DESIGN)
    assert text.startswith("Means over seeds, n = 2.")
    assert cells(text)[1] == ["Model1", "**0.200**"]
    uneven = history.frame([*rows("Model1", [0.1], [0.5]), *rows("Model1", [0.3], [0.6], seed=1),
                            *rows("Model2", [0.1], [0.5])])  # fmt: skip
    assert "n = 1 to 2" in report.tables(uneven, DESIGN)


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        (3, ["1", "2", "3"]),
        (5, ["1", "2", "3", "4", "5"]),
        (7, ["1", "2", "3", "5", "7"]),
        (10, ["1", "2", "3", "5", "10"]),
        (20, ["1", "2", "3", "5", "10", "20"]),
    ],
)
def test_columns_are_the_source_epochs_and_the_last(count: int, columns: list[str]) -> None:
    frame = history.frame(rows("Model1", [0.1] * count, [0.5] * count))
    assert cells(report.tables(frame, DESIGN))[0][1:] == columns


def test_a_missing_number_is_a_dash_and_never_the_best() -> None:
    frame = history.frame([*rows("Model1", [None, 0.4], [0.2, 0.5]), *rows("Model3", [0.9], [0.3])])
    assert cells(report.tables(frame, DESIGN))[1:] == [["Model1", "-", "**0.400**"], ["Model3", "***0.900***", "-"]]


def test_seconds_are_shown_where_they_were_measured() -> None:
    frame = history.frame([*rows("Model1", [0.1] * 3, [0.5] * 3, seconds=2.0), *rows("Model3", [0.1], [0.5])])
    frame.loc[1, "seconds"] = 9.0
    assert cells(report.seconds(frame, DESIGN))[1:] == [["Model1", "2", "2", "9", "3"]]
    assert "## Seconds" in report.report(frame, DESIGN, [], {})
    assert report.seconds(history.frame(rows("Model3", [0.1], [0.5])), DESIGN) == ""
    assert "## Seconds" not in report.report(history.frame(rows("Model3", [0.1], [0.5])), DESIGN, [], {})


# Verdicts


def test_the_verdict_table_and_every_clause(published: str) -> None:
    table = cells(published[published.index("## Verdicts") :])
    assert table[0] == ["finding", "recipe", "verdict", "clauses held", "sentence"]
    assert len(table) == 16
    assert [
        "scheduler-helps",
        "StepLR against constant lr",
        "mixed by sign (one seed, no test)",
        "11 of 14",
        "lr_scheduler is a good way",
    ] in table
    by_sign = "by sign (one seed, no test)"
    assert f"#### scheduler-helps (StepLR against constant lr): mixed {by_sign}: 11 of 14 clauses hold, 3" in published
    assert f"#### dense-beats-residual (StepLR): mixed {by_sign}: 7 of 8" in published
    assert f"#### dense-beats-residual (constant lr): holds {by_sign}: 8 of 8" in published
    assert "Model1-first: Model1 is ahead of every memory model after epoch 1 already (for information)" in published
    assert "Model4-loss: lr_Model4's training loss is below Model4's" in published


def test_a_verdict_of_several_seeds_tells_its_test_and_of_one_seed_that_there_was_none() -> None:
    several = report.verdicts(judge(student_runs(seeds=4, noise=0.001), DESIGN))
    assert "by sign" not in several
    assert "4 seeds, p = " in several
    assert " by t at level 0.00" in several
    one = report.verdicts(judge(student_runs(), DESIGN))
    verdicts = [row[2] for row in cells(one)[1:]]
    assert verdicts == ["holds by sign (one seed, no test)"] * 14 + ["fails by sign (one seed, no test)"]
    assert "p = " not in one


def test_the_verdicts_can_do_without_their_clauses() -> None:
    judged = judge(student_runs(seeds=2), DESIGN)
    short = report.verdicts(judged, clauses=False)
    assert report.verdicts(judged).startswith(short)
    assert "####" not in short


def test_no_judgement_is_said() -> None:
    assert "No finding could be judged" in report.report(history.frame(rows("Model1", [0.1], [0.5])), DESIGN, [], {})


# Header


def test_the_header_says_where_the_numbers_come_from(published: str) -> None:
    head = published[: published.index("## Tables")]
    assert head.startswith("# kvbench: imagenet\n")
    assert "runs: n = 1 of each configuration" in head
    assert "fxnnxc's blog, 2023-04-19" in head
    assert "unknown: optimiser" in head


def test_the_header_says_how_the_recipe_differs_and_hides_what_is_for_programs() -> None:
    facts = {
        "workload": "fractals",
        "versions": {"torch": "2.9"},
        "teacher_val_accuracy": 0.712345678,
        "fingerprints": {"x": "secret"},
        "history": [],
        "seeds": [0],
        "partial_updates": [{"configurations": ["Model9"], "date": "2023-04-19", "threads": 77}],
    }
    frame = history.frame(rows("Model1", [0.1], [0.5]))
    text = report.report(frame, DESIGN, [], facts)
    head = text[: text.index("## Tables")]
    assert "recipe against the study's: lr 0.00275 instead of 0.0001" in head
    assert "against the study's" not in report.about(frame, DESIGN, {"workload": "imagenet"}), "nothing differs"
    assert "versions: torch 2.9" in head
    assert "teacher val accuracy: 0.7123" in head
    assert "- partial updates: configurations Model9, date 2023-04-19\n" in head
    assert "secret" not in head
    assert "history" not in head


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("passed", "This run passed."),
        ("failed", "This run FAILED: do not use it as a baseline."),
        ("incomplete", "This run is INCOMPLETE"),
        ("unknown", "This run does not say whether it passed"),
    ],
)
def test_the_outcome_comes_first(outcome: str, said: str) -> None:
    frame = history.frame(rows("Model1", [0.1], [0.5]))
    text = report.report(
        frame, DESIGN, [], {"workload": "fractals"}, {"outcome": outcome, "reasons": ["Model3 | moved"]}
    )
    assert said in text.splitlines()[2]
    assert ("- Model3 \\| moved" in text) == (outcome != "passed")


def test_names_from_files_can_not_break_the_table() -> None:
    frame = history.frame(rows("a|b\n| c\x1b[31m`*<b>", [0.1], [0.5]))
    text = report.report(frame, DESIGN, [], {"workload": "x\n# y", "note": "one\r\ntwo"})
    assert "\x1b" not in text
    assert "a\\|b \\| c \\[31m\\`\\*\\<b>" in text
    assert text.startswith("# kvbench: x # y\n")
    assert "note: one  two" in text


# Start


def test_judgements_of_a_report_are_those_of_the_findings(published: str) -> None:
    frame = history.read(EXPECTED / "imagenet" / "histories.csv")
    assert report.verdicts(judge(frame, DESIGN)) in published
