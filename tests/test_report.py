import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvbench import history, report, saved
from kvbench.errors import UserError
from kvbench.findings import judge_all

EXPECTED = Path(__file__).parents[1] / "expected"
ORDER = [f"{prefix}Model{n}" for prefix in ("lr_", "") for n in range(1, 8)]


def rows(name, losses, accuracies, *, seed=0, **metrics):
    return [
        {
            "configuration": name,
            "seed": seed,
            "epoch": epoch,
            "train_loss": loss,
            "val_accuracy": accuracy,
            **metrics,
        }
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    ]


def cells(markdown):
    """Rows of the first markdown table in a text, as lists of stripped cells, without the line of dashes."""
    lines = markdown[markdown.index("|") :].split("\n\n")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]


@pytest.fixture(scope="module")
def published():
    return report.report_expected(EXPECTED, "imagenet")


# Tables


def test_the_source_tables_show_all_140_numbers_in_the_source_order(published):
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


def test_the_source_tables_mark_the_best(published):
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


def test_marks_by_hand_on_a_small_frame():
    frame = history.frame(
        [
            *rows("Model3", [0.9, 0.5], [0.30, 0.40]),
            *rows("Mine", [0.8, 0.1], [0.10, 0.90]),
            *rows("Model1", [1.0, 0.4], [0.20, 0.50]),
            *rows("lr_Model1", [0.1, 0.1], [0.99, 0.99]),
            *rows("Model4", [0.9001, 0.6], [0.30, 0.30]),
        ]
    )
    text = report.tables(frame)
    assert cells(text[text.index("Training") :]) == [
        ["configuration", "1", "2"],
        ["lr_Model1", "**0.100**", "**0.100**"],  # a block of its own
        ["Model1", "1.000", "0.400"],
        ["Model3", "*0.900*", "*0.500*"],
        ["Model4", "*0.900*", "0.600"],  # what looks like a tie marks both
        ["Mine", "**0.800**", "**0.100**"],  # not the source's: below its rows, and it may be the best
    ]
    assert cells(text[text.index("Validation") :])[2:] == [
        ["Model1", "0.200", "0.500"],
        ["Model3", "***0.300***", "*0.400*"],
        ["Model4", "***0.300***", "0.300"],
        ["Mine", "0.100", "**0.900**"],
    ]


def test_means_over_seeds_with_n_above():
    frame = history.frame([*rows("Model1", [0.1], [0.5]), *rows("Model1", [0.3], [0.6], seed=1)])
    text = report.tables(frame)
    assert text.startswith("Means over seeds, n = 2.")
    assert cells(text)[1] == ["Model1", "**0.200**"]
    uneven = history.frame([*rows("Model1", [0.1], [0.5]), *rows("Model1", [0.3], [0.6], seed=1),
                            *rows("Model2", [0.1], [0.5])])  # fmt: skip
    assert "n = 1 to 2" in report.tables(uneven)


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
def test_columns_are_the_source_epochs_and_the_last(count, columns):
    frame = history.frame(rows("Model1", [0.1] * count, [0.5] * count))
    assert cells(report.tables(frame))[0][1:] == columns


def test_a_missing_number_is_a_dash_and_never_the_best():
    frame = history.frame([*rows("Model1", [None, 0.4], [0.2, 0.5]), *rows("Model3", [0.9], [0.3])])
    assert cells(report.tables(frame))[1:] == [["Model1", "-", "**0.400**"], ["Model3", "***0.900***", "-"]]


def test_seconds_are_shown_where_they_were_measured():
    frame = history.frame([*rows("Model1", [0.1] * 3, [0.5] * 3, seconds=2.0), *rows("Model3", [0.1], [0.5])])
    frame.loc[1, "seconds"] = 9.0
    assert cells(report.seconds(frame))[1:] == [["Model1", "2", "2", "9", "3"]]
    assert "## Seconds" in report.report(frame, [], {})
    assert report.seconds(history.frame(rows("Model3", [0.1], [0.5]))) == ""
    assert "## Seconds" not in report.report(history.frame(rows("Model3", [0.1], [0.5])), [], {})


# Verdicts


def test_the_verdict_table_and_every_clause(published):
    table = cells(published[published.index("## Verdicts") :])
    assert table[0] == ["finding", "recipe", "verdict", "clauses held", "the source says"]
    assert len(table) == 16
    assert ["scheduler-helps", "StepLR against constant lr", "mixed", "11 of 14", "lr_scheduler is a good way"] in table
    assert "#### scheduler-helps (StepLR against constant lr): mixed: 11 of 14 clauses hold, 3 fail" in published
    assert "#### dense-beats-residual (StepLR): mixed: 7 of 8" in published
    assert "#### dense-beats-residual (constant lr): holds: 8 of 8" in published
    assert (
        "Model1-first: Model1 is ahead of every memory model after epoch 1 already (beside, does not count)"
        in published
    )
    assert "Model4-loss: lr_Model4's training loss is below Model4's" in published


def test_no_judgement_is_said():
    assert "No finding could be judged" in report.report(history.frame(rows("Model1", [0.1], [0.5])), [], {})


# Header


def test_the_header_says_where_the_numbers_come_from(published):
    head = published[: published.index("## Tables")]
    assert head.startswith("# kvbench: imagenet\n")
    assert "runs: n = 1 of each configuration" in head
    assert "fxnnxc's blog, 2023-04-19" in head
    assert "unknown: optimiser" in head


def test_the_header_says_how_the_recipe_differs_and_hides_what_is_for_programs():
    facts = {
        "workload": "fractals",
        "versions": {"torch": "2.9"},
        "teacher_val_accuracy": 0.712345678,
        "fingerprints": {"x": "secret"},
        "history": [],
        "seeds": [0],
    }
    text = report.report(history.frame(rows("Model1", [0.1], [0.5])), [], facts)
    head = text[: text.index("## Tables")]
    assert "recipe against the source's: 8,192 training images instead of" in head
    assert "versions: torch 2.9" in head
    assert "teacher val accuracy: 0.7123" in head
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
def test_the_outcome_comes_first(outcome, said):
    frame = history.frame(rows("Model1", [0.1], [0.5]))
    text = report.report(frame, [], {"workload": "fractals"}, {"outcome": outcome, "reasons": ["Model3 | moved"]})
    assert said in text.splitlines()[2]
    assert ("- Model3 \\| moved" in text) == (outcome != "passed")


def test_names_from_files_can_not_break_the_table():
    frame = history.frame(rows("a|b\n| c\x1b[31m`*<b>", [0.1], [0.5]))
    text = report.report(frame, [], {"workload": "x\n# y", "note": "one\r\ntwo"})
    assert "\x1b" not in text
    assert "a\\|b \\| c \\[31m\\`\\*\\<b>" in text
    assert text.startswith("# kvbench: x # y\n")
    assert "note: one  two" in text


# Saved runs


def benchmark(name="Model1", **changes):
    entry = {
        "workload": "fractals",
        "configuration": name,
        "history": rows(name, [0.9, 0.4], [0.3, 0.5], val_loss=0.5, agreement=0.6, seconds=1.5),
        "parameters": 513000,
        "trainable": 513000,
        "flops_per_sample": 1_024_000,
        "recipe": {"lr": 0.003},
        "seeds": [0],
        "fingerprints": {"teacher": "abc"},
        "versions": {"torch": "2.9"},
    }
    return {"name": f"test[{name}]", "extra_info": {"kvbench": {**entry, **changes}}, "stats": {"mean": 1.5}}


def content(*benchmarks, **top):
    return {
        "machine_info": {"cpu": {"brand_raw": "A processor"}},
        "commit_info": {"id": "1234abcd", "dirty": True},
        "benchmarks": list(benchmarks),
        "datetime": "2026-01-02T03:04:05",
        "kvbench": {"workload": "fractals", "outcome": "passed", "reasons": []},
        **top,
    }


def save(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_saved_run_is_read_whole(tmp_path):
    path = save(tmp_path / "run.json", content(benchmark(), benchmark("Model3", flops_per_sample=7, seeds=[0, 1])))
    run = saved.read(path)
    assert (run.workload, run.outcome, run.reasons) == ("fractals", "passed", ())
    assert history.configurations(run.histories) == ["Model1", "Model3"]
    np.testing.assert_array_equal(run.histories["train_loss"], [0.9, 0.4, 0.9, 0.4])
    assert run.costs == {"Model1": 1_024_000, "Model3": 7}
    assert run.parameters["Model3"] == (513000, 513000)
    assert run.info["versions"] == {"torch": "2.9"}
    assert run.info["date"] == "2026-01-02T03:04:05"
    assert "seeds" not in run.info  # not the same for all


def test_other_projects_benchmarks_in_the_same_file_are_passed_over(tmp_path):
    path = save(tmp_path / "run.json", content({"name": "other", "extra_info": {}}, {"name": "bare"}, benchmark()))
    assert history.configurations(saved.read(path).histories) == ["Model1"]


def test_a_run_without_an_ending_is_of_unknown_outcome(tmp_path):
    whole = content(benchmark())
    del whole["kvbench"]
    assert saved.read(save(tmp_path / "run.json", whole)).outcome == "unknown"
    assert "does not say whether it passed" in report.report_saved(tmp_path / "run.json")


def test_a_run_that_diverged_can_be_read(tmp_path):
    bad = benchmark("Model1", history=rows("Model1", [0.9, float("nan")], [0.3, 0.5]))
    worse = benchmark("Model2", history=rows("Model2", [0.9, float("inf")], [0.3, 0.5]))
    path = save(tmp_path / "run.json", content(bad, worse))
    assert "-" in cells(report.report_saved(path))[1]


def test_the_report_of_a_saved_run(tmp_path):
    ending = {"workload": "fractals", "outcome": "failed", "reasons": ["Model1 moved"]}
    path = save(tmp_path / "run.json", content(benchmark(), kvbench=ending))
    text = report.report_saved(path)
    assert "This run FAILED" in text
    assert "- Model1 moved" in text
    assert "A processor" in text
    assert "1234abcd" in text
    assert "uncommitted changes: yes" in text
    assert "No finding could be judged" in text
    assert "| Model1          | **0.900** | **0.400** |" in text


def test_the_clauses_of_one_finding(tmp_path):
    text = report.report_expected(EXPECTED, "imagenet", "gelu-beats-relu")
    assert text.startswith("gelu-beats-relu (StepLR): holds")
    assert "Model4-Model6-accuracy: Model4's accuracy (GELU) is above Model6's (ReLU)" in text
    path = save(tmp_path / "run.json", content(benchmark("Model3")))
    assert "gelu-beats-relu (constant lr): lacks Model4, Model5, Model6" in report.report_saved(path, "gelu-beats-relu")
    with pytest.raises(UserError, match="Unknown finding 'gelu'"):
        report.report_saved(path, "gelu")
    with pytest.raises(UserError, match="no reference for fractal in"):
        report.report_expected(tmp_path, "fractal")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "There is no file"),
        ("", "can't be read as JSON"),
        ("\x00", "can't be read as JSON"),
        ("[" * 100_000, "can't be read as JSON"),
        ([], "is not a JSON object"),
        ({}, "is not a file that pytest-benchmark saves"),
        ({"benchmarks": {}}, "is not a file that pytest-benchmark saves"),
        (content(), "holds no kvbench histories; save a run with: pytest benchmarks/ --benchmark-save=NAME"),
        (content(7), "a benchmark is not a JSON object"),
        (content({"extra_info": []}), "holds no kvbench histories"),
        (content({"extra_info": {"kvbench": 3}}), "kvbench is not a JSON object"),
        (content(benchmark(history="x")), "history is 'x'"),
        (content(benchmark(history=[3])), "a row of Model1 is not a JSON object"),
        (content(benchmark(history=[{"configuration": "Model1", "seed": 0}])), "lacks the columns epoch"),
        (content(benchmark(history=rows("Model1", [-1], [0.5]))), "train_loss is -1.0"),
        (content(benchmark(history=rows("Model2", [1], [0.5]))), "the history of Model1 has a row of 'Model2'"),
        (content(benchmark(history=[])), "holds no rows"),
        (content(benchmark(), benchmark()), "Model1 seed 0 epoch 1 twice"),
        (content(benchmark(configuration=None)), "configuration is None"),
        (content(benchmark(workload=3)), "workload is 3"),
        (content(benchmark(workload="imagenet")), "holds runs of imagenet, fractals; valid is one workload"),
        (content(benchmark(parameters="many")), "parameters of Model1 is 'many'"),
        (content(benchmark(flops_per_sample=-1)), "flops_per_sample of Model1 is -1"),
        (content(benchmark(), kvbench={"outcome": "fine"}), "outcome is 'fine'; valid: passed, failed, incomplete"),
        (content(benchmark(), kvbench={"outcome": []}), "outcome is []"),
        (content(benchmark(), kvbench={"reasons": "x"}), "reasons is 'x'"),
        (content(benchmark(), kvbench=[]), "kvbench is not a JSON object"),
        (content(benchmark(), machine_info=3), "machine_info is not a JSON object"),
    ],
)
def test_a_file_that_is_no_saved_run_is_refused_in_a_sentence(tmp_path, value, said):
    path = tmp_path / "run.json"
    if value is not None:
        save(path, value)
    with pytest.raises(UserError) as error:
        report.report_saved(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# Start


def test_reporting_imports_no_torch():
    code = (
        "import sys; from pathlib import Path; from kvbench import report, saved;"
        f"report.report_expected(Path({str(EXPECTED)!r}), 'imagenet');"
        "print([name for name in ('torch', 'scipy.stats', 'pytest', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_judgements_of_a_report_are_those_of_the_findings(published):
    frame = history.read(EXPECTED / "imagenet" / "histories.csv")
    assert report.verdicts(judge_all(frame)) in published
