from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvbench.reference.compare import FAMILY_ERROR, compare
from kvbench.reference.store import Reference, load
from kvbench.reference.tolerances import LOSS_FLOOR, SHARE_FLOOR, TOLERANCES
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.stats.intervals import prediction_interval
from tests.support import DESIGN
from tests.support.references import MEMORY, PRINTS, UPDATE, memory_runs


@pytest.fixture
def recorded(memory_folder: Path) -> Reference:
    return load(memory_folder, "fractals", DESIGN)


def test_the_same_curves_pass_and_so_do_other_seeds(recorded: Reference) -> None:
    for fresh in (memory_runs(), memory_runs(seeds=3, first=100)):
        for name in MEMORY:
            comparison = compare(recorded, fresh, name, PRINTS)
            assert not comparison.failed, comparison.describe()
            assert comparison.judged
            assert [deviation.status for deviation in comparison.deviations] == ["within"] * len(TOLERANCES)
            assert f"{name} on fractals: within the reference" in comparison.describe()


def test_a_shifted_loss_fails_and_names_its_gates(recorded: Reference) -> None:
    comparison = compare(recorded, memory_runs(shift=1.3), "Model3", PRINTS)
    assert comparison.failed
    moved = [deviation.tolerance.name for deviation in comparison.deviations if deviation.status.failed]
    assert moved == ["train_loss, whole curve", "train_loss, last epoch"]
    text = comparison.describe()
    assert "train_loss, whole curve; train_loss, last epoch are outside the reference" in text
    (line,) = [line for line in text.splitlines() if "train_loss, last epoch" in line and "DRIFTED" in line]
    assert line.startswith(">>")
    assert "+30.00%" in line
    assert UPDATE in text


@pytest.mark.parametrize(("metric", "change"), [("val_loss", 0.1), ("val_accuracy", -0.05), ("agreement", -0.05)])
def test_a_shift_of_each_other_metric_fails_its_gate_alone(recorded: Reference, metric: str, change: float) -> None:
    fresh = memory_runs()
    fresh[metric] += change
    deviations = compare(recorded, fresh, "Model4").deviations
    assert [deviation.tolerance.metric for deviation in deviations if deviation.status.failed] == [metric]


def test_a_curve_that_ends_right_but_gets_there_otherwise_fails_the_curve_gate(recorded: Reference) -> None:
    fresh = memory_runs()
    fresh.loc[fresh["epoch"] == 2, "train_loss"] *= 1.5
    deviations = compare(recorded, fresh, "Model3").deviations
    assert [deviation.tolerance.name for deviation in deviations if deviation.status.failed] == [
        "train_loss, whole curve"
    ]


def test_seconds_are_never_compared(recorded: Reference) -> None:
    fresh = memory_runs()
    fresh["seconds"] *= 100
    comparison = compare(recorded, fresh, "Model3")
    assert not comparison.failed
    assert "seconds" not in comparison.describe()


def test_the_allowed_interval_is_students_over_all_gates_widened_by_the_floor(recorded: Reference) -> None:
    fresh = memory_runs(seeds=2)
    deviations = {o.tolerance.name: o for o in compare(recorded, fresh, "Model3").deviations}
    last = memory_runs()[lambda rows: (rows["configuration"] == "Model3") & (rows["epoch"] == 3)]
    level = 1 - FAMILY_ERROR / (5 * 5)  # five gates of four configurations and of all together
    low, high = prediction_interval(np.log(last["train_loss"]), 2, level)
    found = deviations["train_loss, last epoch"]
    np.testing.assert_allclose(np.log([found.low, found.high]), [low - LOSS_FLOOR, high + LOSS_FLOOR], atol=1e-5)
    low, high = prediction_interval(last["val_accuracy"], 2, level)
    found = deviations["val_accuracy, last epoch"]
    np.testing.assert_allclose([found.low, found.high], [low - SHARE_FLOOR, high + SHARE_FLOOR], atol=1e-5)


def test_the_floor_lets_rounding_pass_where_seeds_do_not_spread(tmp_path: Path) -> None:
    update(tmp_path, "fractals", DESIGN, memory_runs(noise=0.0), {})
    known = load(tmp_path, "fractals", DESIGN)
    assert not compare(known, memory_runs(noise=0.0, shift=1.0005), "Model3").failed
    assert compare(known, memory_runs(noise=0.0, shift=1.002), "Model3").failed


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (lambda rows: (rows["seed"] == 1) & (rows["epoch"] == 2), "Model3 lacks seed 1, epoch 2"),
        (lambda rows: rows["epoch"] == 3, "Model3 lacks seed 0, epoch 3"),
        (lambda rows: rows["seed"] == 4, "Model3 lacks seed 4"),
        (lambda rows: rows["configuration"] == "Model3", "the run has no rows of Model3"),
    ],
)
def test_a_vanished_row_fails(recorded: Reference, drop: Callable[[pd.DataFrame], pd.Series[bool]], said: str) -> None:
    fresh = memory_runs()
    comparison = compare(recorded, fresh[~drop(fresh)], "Model3", seeds=range(5))
    assert comparison.failed
    assert not comparison.judged
    assert comparison.deviations == ()
    assert said in comparison.describe()


def test_an_extra_epoch_an_extra_seed_and_an_unknown_configuration_fail(recorded: Reference) -> None:
    assert "Model3 has, beyond what is expected, seed 0, epoch 4" in "".join(
        compare(recorded, memory_runs(epochs=4), "Model3").problems
    )
    extra = compare(recorded, memory_runs(), "Model3", seeds=[0, 1, 2, 3])
    assert extra.problems == ("Model3 has, beyond what is expected, seed 4",)
    stranger = compare(recorded, memory_runs(["Model9"]), "Model9")
    assert stranger.failed
    assert "has no configuration Model9" in stranger.describe()
    assert UPDATE in stranger.describe()
    assert compare(recorded, history.frame([]), "Model3").failed


def test_a_full_run_is_compared_configuration_by_configuration_both_ways(recorded: Reference) -> None:
    assert recorded.absent(MEMORY) == []
    assert recorded.absent(["Model3", "Model4", "Model5", "Model9"]) == [
        "Model6 is in the reference but was not run",
        "Model9 was run but is not in the reference",
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["train_loss", "val_loss", "val_accuracy", "agreement"])
def test_a_number_that_is_none_fails(recorded: Reference, metric: str, bad: float) -> None:
    fresh = memory_runs()
    if metric in history.SHARES and math.isinf(bad):
        bad = math.nan
    fresh.loc[(fresh["seed"] == 2) & (fresh["epoch"] == 3), metric] = bad
    comparison = compare(recorded, fresh, "Model3")
    assert comparison.failed
    assert {deviation.tolerance.metric for deviation in comparison.deviations if deviation.status.failed} == {metric}
    assert "NO NUMBER" in comparison.describe()


def test_what_one_side_did_not_measure_is_said(recorded: Reference) -> None:
    fresh = memory_runs()
    fresh[["val_loss", "agreement"]] = math.nan
    comparison = compare(recorded, fresh, "Model3")
    assert not comparison.failed
    assert "not compared, as one side did not measure it: val_loss, last epoch; agreement, last epoch" in (
        comparison.describe()
    )


def test_one_reference_seed_is_not_judged_but_shown(tmp_path: Path) -> None:
    update(tmp_path, "fractals", DESIGN, memory_runs(seeds=1), {})
    comparison = compare(load(tmp_path, "fractals", DESIGN), memory_runs(seeds=1, shift=9.0), "Model3")
    assert not comparison.failed
    assert not comparison.judged
    text = comparison.describe()
    assert "not judged: one reference seed" in text
    assert "within" not in text
    assert "+800.00%" in text


def test_few_reference_seeds_are_told(tmp_path: Path) -> None:
    update(tmp_path, "fractals", DESIGN, memory_runs(seeds=3), {})
    comparison = compare(load(tmp_path, "fractals", DESIGN), memory_runs(seeds=3), "Model3")
    assert "only 3 reference seeds" in comparison.describe()


def test_other_fingerprints_fail_by_name_instead_of_numbers(recorded: Reference) -> None:
    other = {**PRINTS, "teacher": "c" * 64, "pooling": ("global", 1)}
    assert "pooling" not in compare(recorded, memory_runs(), "Model3", other).describe(), "an old reference lacks it"
    prints = {**PRINTS, "study": "kv-memory"}
    recorded, other = replace(recorded, provenance={"fingerprints": prints}), {**other, "study": "kv-memory"}
    comparison = compare(recorded, memory_runs(), "Model3", other)
    assert comparison.failed
    assert comparison.deviations == ()
    assert "teacher (cccccccccccc..., recorded aaaaaaaaaaaa...), pooling" in comparison.describe()
    assert "data (" not in comparison.describe()
    assert not compare(recorded, memory_runs(), "Model3", {}).failed


def test_fingerprints_are_compared_as_json_has_them(tmp_path: Path) -> None:
    prints = {"taps": ("layer3.1", "layer4.0")}
    update(tmp_path, "fractals", DESIGN, memory_runs(), {"fingerprints": prints})
    assert not compare(load(tmp_path, "fractals", DESIGN), memory_runs(), "Model3", prints).failed


def test_a_published_table_is_compared_at_its_epochs(recorded: Reference) -> None:
    old = memory_runs(epochs=4)
    published = replace(recorded, histories=old[old["epoch"] != 3], provenance={"epochs_reported": [1, 2, 4]})
    assert not compare(published, memory_runs(epochs=4), "Model3").failed
    assert compare(published, memory_runs(epochs=5), "Model3").failed
    lacking = memory_runs(epochs=4)
    assert compare(published, lacking[lacking["epoch"] != 2], "Model3").failed


def test_all_epochs_are_shown_with_gates_marked(recorded: Reference) -> None:
    text = compare(recorded, memory_runs(shift=1.3), "Model3").describe()
    table = text[text.index("All epochs") :].splitlines()
    assert table[1].split() == ["epoch", "train_loss", "val_loss", "val_accuracy", "agreement"]
    assert [line.split()[0] for line in table[3:6]] == ["1", "2", "3"]
    assert table[5].count("*") == 4
    assert table[4].count("*") == 0
