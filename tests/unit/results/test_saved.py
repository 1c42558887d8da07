"""Saved runs: what is read of them, their reports, and what is said about files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.judge import judge
from kvbench.reporting.contents import of_expected, of_saved
from kvbench.results import history, saved
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.saved_runs import benchmark, content
from tests.support.students import student_runs
from tests.support.tables import cells, rows


def save(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_saved_run_is_read_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "run.json", content(benchmark(), benchmark("Model3", flops_per_sample=7, seeds=[0, 1])))
    run = saved.read(path)
    assert (run.workload, run.outcome, run.reasons) == ("fractals", "passed", ())
    assert history.configurations(run.histories) == ["Model1", "Model3"]
    np.testing.assert_array_equal(run.histories["train_loss"], [0.9, 0.4, 0.9, 0.4])
    assert run.costs == {"Model1": 1_024_000, "Model3": 7}
    assert run.info["versions"] == {"torch": "2.9"}
    assert run.info["date"] == "2026-01-02T03:04:05"
    assert "seeds" not in run.info  # not the same for all


def test_other_projects_benchmarks_in_the_same_file_are_passed_over(tmp_path: Path) -> None:
    path = save(tmp_path / "run.json", content({"name": "other", "extra_info": {}}, {"name": "bare"}, benchmark()))
    assert history.configurations(saved.read(path).histories) == ["Model1"]


def test_a_run_without_an_ending_is_of_unknown_outcome(tmp_path: Path) -> None:
    whole = content(benchmark())
    del whole["kvbench"]
    assert saved.read(save(tmp_path / "run.json", whole)).outcome == "unknown"
    assert "does not say whether it passed" in of_saved(saved.read(tmp_path / "run.json"), DESIGN, EXPECTED).markdown()


def test_a_run_that_diverged_can_be_read(tmp_path: Path) -> None:
    bad = benchmark("Model1", history=rows("Model1", [0.9, float("nan")], [0.3, 0.5]))
    worse = benchmark("Model2", history=rows("Model2", [0.9, float("inf")], [0.3, 0.5]))
    path = save(tmp_path / "run.json", content(bad, worse))
    assert "-" in cells(of_saved(saved.read(path), DESIGN, EXPECTED).markdown())[1]


def test_a_repeated_test_counts_once(tmp_path: Path) -> None:
    again = rows("Model1", [0.9, 0.4], [0.3, 0.5], val_loss=0.5, agreement=0.6, seconds=1.2)
    partly = rows("Model1", [0.9], [0.3], val_loss=0.5, agreement=0.6, seconds=1.7)
    plain = saved.read(save(tmp_path / "once.json", content(benchmark(history=again))))
    for order in ([benchmark(), benchmark(history=again)], [benchmark(history=h) for h in (partly, again, partly)]):
        for runs in (order, order[::-1]):
            run = saved.read(save(tmp_path / "run.json", content(*runs)))
            pd.testing.assert_frame_equal(run.histories, plain.histories)


def test_an_unknown_cost_is_null_or_absent(tmp_path: Path) -> None:
    absent = benchmark("Model2")
    del absent["extra_info"]["kvbench"]["flops_per_sample"]
    runs = content(benchmark(flops_per_sample=None), absent, benchmark("Model3"))
    run = saved.read(save(tmp_path / "run.json", runs))
    assert list(run.costs) == ["Model3"]
    assert "Model2" in of_saved(saved.read(tmp_path / "run.json"), DESIGN, EXPECTED).markdown()


def test_the_report_of_a_saved_run(tmp_path: Path) -> None:
    ending = {"workload": "fractals", "outcome": "failed", "reasons": ["Model1 moved"]}
    path = save(tmp_path / "run.json", content(benchmark(), kvbench=ending))
    text = of_saved(saved.read(path), DESIGN, EXPECTED).markdown()
    assert "This run FAILED" in text
    assert "- Model1 moved" in text
    assert "A processor" in text
    assert "1234abcd" in text
    assert "uncommitted changes: yes" in text
    assert "No finding could be judged" in text
    assert "| Model1          | **0.900** | **0.400** |" in text


def test_the_clauses_of_one_finding(tmp_path: Path) -> None:
    text = of_expected(EXPECTED, "imagenet", DESIGN).finding("gelu-beats-relu")
    assert text.startswith("gelu-beats-relu (StepLR): holds by sign (one seed, no test): 4 of 4")
    assert "Model4-Model6-accuracy: Model4's accuracy (GELU) is above Model6's (ReLU)" in text
    path = save(tmp_path / "run.json", content(benchmark("Model3")))
    assert "gelu-beats-relu (constant lr): lacks Model4, Model5, Model6" in of_saved(
        saved.read(path), DESIGN, EXPECTED
    ).finding("gelu-beats-relu")
    with pytest.raises(UserError, match="Unknown finding 'gelu'"):
        of_saved(saved.read(path), DESIGN, EXPECTED).finding("gelu")
    with pytest.raises(UserError, match="no reference for fractal in"):
        of_expected(tmp_path, "fractal", DESIGN)


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
        (
            content(benchmark(), benchmark(history=rows("Model1", [0.9, 0.5], [0.3, 0.5]))),
            "Model1 seed 0 epoch 1 twice, with different results",
        ),
        (content(benchmark(configuration=None)), "configuration is None"),
        (content(benchmark(workload=3)), "workload is 3"),
        (content(benchmark(workload="imagenet")), "holds runs of imagenet, fractals; valid is one workload"),
        (content(benchmark(flops_per_sample="many")), "flops_per_sample of Model1 is 'many'"),
        (content(benchmark(flops_per_sample=-1)), "flops_per_sample of Model1 is -1"),
        (content(benchmark(), kvbench={"outcome": "fine"}), "outcome is 'fine'; valid: passed, failed, incomplete"),
        (content(benchmark(), kvbench={"outcome": []}), "outcome is []"),
        (content(benchmark(), kvbench={"reasons": "x"}), "reasons is 'x'"),
        (content(benchmark(), kvbench=[]), "kvbench is not a JSON object"),
        (content(benchmark(), machine_info=3), "machine_info is not a JSON object"),
    ],
)
def test_a_file_that_is_no_saved_run_is_refused_in_a_sentence(tmp_path: Path, value: object, said: str) -> None:
    path = tmp_path / "run.json"
    if value is not None:
        save(path, value)
    with pytest.raises(UserError) as error:
        of_saved(saved.read(path), DESIGN, EXPECTED).markdown()
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_finding_is_judged_among_all_that_share_the_error(tmp_path: Path) -> None:
    histories = student_runs(seeds=3, noise=0.001)
    names = history.configurations(histories)
    runs = [benchmark(name, history=_rows(histories, name), seeds=[0, 1, 2]) for name in names]
    path = save(tmp_path / "run.json", content(*runs))
    read = saved.read(path)
    told = of_saved(saved.read(path), DESIGN, EXPECTED).finding("gelu-beats-relu").split("\n\n")
    among = [j.describe() for j in judge(read.histories, DESIGN, read.costs) if j.finding.id == "gelu-beats-relu"]
    assert [text.strip() for text in told] == among
    alone = judge(read.histories, DESIGN, read.costs, [DESIGN.finding("gelu-beats-relu")])
    assert [j.describe() for j in alone] != among


def _rows(histories: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    frame = histories[histories["configuration"] == name]
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


@pytest.mark.parametrize(
    ("recipe", "taken", "told"),
    [
        ({"epochs": 2}, [2, 2], "Model1 (finished)"),
        ({"epochs": 2}, [2, 1], "Model1 from epoch 2 on"),
        ({"epochs": 2}, [0, 0], None),
        (None, [1], None),
        ([], [1], None),
        ({}, [1], None),
        ({"epochs": "2"}, [1], None),
        ({"epochs": 2}, [1, None], None),
        ({"epochs": 2}, [-3], None),
        ({"epochs": 10**4299}, [10**4300 - 1], None),  # one more has more digits than Python writes
    ],
)
def test_what_a_saved_run_reused_is_told_where_its_record_can_be_understood(
    tmp_path: Path, recipe: object, taken: list[object], told: str | None
) -> None:
    path = save(tmp_path / "run.json", content(benchmark(recipe=recipe, reused_epochs=taken)))
    assert saved.read(path).info.get("resumed") == told


def test_replicates_in_a_saved_run_are_not_taken_for_its_history(tmp_path: Path) -> None:
    replicates = rows("Model1", [0.8, 0.3], [0.3, 0.5], seed=0)
    path = save(tmp_path / "run.json", content(benchmark(perturbed=replicates)))
    np.testing.assert_array_equal(saved.read(path).histories["train_loss"], [0.9, 0.4])
    assert "rounded" not in of_saved(saved.read(path), DESIGN, EXPECTED).markdown()
