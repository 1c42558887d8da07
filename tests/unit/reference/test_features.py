"""Features held against those of a reference: whatever the seeds, and up to rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.reference import features
from kvbench.reference.features import compare_features
from kvbench.reference.store import Reference, load
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.results.saved import Outcome
from kvbench.utils.errors import UserError
from tests.support import DESIGN, synthetic
from tests.support.collected import collected

RECORDED = {"train first": [3.0, 4.0], "val first": [0.0, 0.0], "val logits": [1.0, -1.0]}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    plain = synthetic.reference(tmp_path_factory.mktemp("features"))
    return replace(plain, provenance={**plain.provenance, "projections": RECORDED})


def test_features_within_rounding_are_the_recorded_ones(recorded: Reference) -> None:
    mine = {**RECORDED, "train first": [3.0, 4.0 + 5 * 2**-15]}
    drifts = compare_features(recorded, mine, recorded.fingerprints)
    assert [drift.column for drift in drifts] == [*RECORDED]
    assert [drift.excess for drift in drifts] == pytest.approx([0.5, 0, 0])
    assert features.describe(drifts) == ""


def test_the_farthest_column_is_named(recorded: Reference) -> None:
    mine = {"train first": [3.0, 4.1], "val first": [0.0, 0.1], "val logits": [1.0]}
    drifts = compare_features(recorded, mine, recorded.fingerprints)
    assert [drift.failed for drift in drifts] == [True, True, True]
    assert math.isnan(drifts[2].excess), "a number is missing"
    first = compare_features(recorded, {**RECORDED, "train first": [3.0, 4.1]}, recorded.fingerprints)
    assert features.describe(first) == (
        "Students are not given the recorded features: train first is 2% of its size away, allowed are 0.006%. Look"
        " first at preprocessing, hooks, pooling, precision and the order of rows."
    )
    assert "val first is" in features.describe([*drifts[:2], *first])
    assert "; so is 1 more of 2. Look" in features.describe(drifts[:2])


def test_what_rounds_more_is_allowed_more(recorded: Reference) -> None:
    mine = {**RECORDED, "train first": [3.0, 4.05]}
    for precision, failed in (("float32", True), ("float16", True), ("bfloat16", False), ("float12", True)):
        prints = {**recorded.fingerprints, "precision": precision}
        rounded = replace(recorded, provenance={**recorded.provenance, "fingerprints": prints})
        assert compare_features(rounded, mine, prints)[0].failed == failed


def test_nothing_is_said_of_another_teacher_or_without_a_record(recorded: Reference) -> None:
    mine = {"train first": [0.0, 4.0]}
    prints = {**recorded.fingerprints, "teacher": "another"}
    of_one = replace(recorded, provenance={**recorded.provenance, "fingerprints": {"teacher": "one"}})
    assert compare_features(of_one, mine, prints) == ()
    assert compare_features(of_one, mine, {"teacher": "one"})[0].failed
    plain = {name: fact for name, fact in recorded.provenance.items() if name != "projections"}
    assert compare_features(replace(recorded, provenance=plain), mine, recorded.fingerprints) == ()


def test_other_features_fail_a_run_whose_curves_are_as_recorded(tmp_path: Path) -> None:
    synthetic.reference(tmp_path / "expected", projections=RECORDED)
    for new, outcome in ((RECORDED, Outcome.PASSED), ({**RECORDED, "val logits": [1.0, 1.0]}, Outcome.FAILED)):
        _, result = collected(tmp_path / "expected", "synthetic", DESIGN, synthetic.runs(range(2)), projections=new)
        assert result.outcome is outcome
    assert result.reasons[0].startswith("FAILED: Students are not given the recorded features: val logits is")


def test_some_configurations_are_not_recorded_anew_with_other_features(tmp_path: Path) -> None:
    runs = synthetic.runs(range(3))
    facts = {"fingerprints": {"teacher": "one"}, "projections": RECORDED}
    update(tmp_path, "synthetic", DESIGN, runs, facts, full=True)
    some = history.of(runs, synthetic.ALL[0])
    update(tmp_path, "synthetic", DESIGN, some, facts)
    with pytest.raises(UserError, match="as students are not given the recorded features: train first is"):
        update(tmp_path, "synthetic", DESIGN, some, {**facts, "projections": {"train first": [4.0, 3.0]}})


def test_what_new_configurations_alone_read_is_recorded_and_what_was_recorded_stays(tmp_path: Path) -> None:
    runs = synthetic.runs(range(3))
    facts = {"fingerprints": {"teacher": "one"}, "projections": RECORDED}
    update(tmp_path, "synthetic", DESIGN, runs, facts, full=True)
    fresh = {"train first": [3.0, 4.0001], "train second": [1.0, 2.0]}
    update(tmp_path, "synthetic", DESIGN, history.of(runs, synthetic.ALL[0]), {**facts, "projections": fresh})
    assert load(tmp_path, "synthetic", DESIGN).provenance["projections"] == {"train second": [1.0, 2.0], **RECORDED}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1" + 400 * "0", "true", '"1"'])
def test_projections_that_are_no_numbers_are_a_sentence(tmp_path: Path, number: str) -> None:
    path = synthetic.reference(tmp_path, projections={"train first": [0.125]}).folder / "provenance.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.125", number), encoding="utf-8")
    with pytest.raises(UserError, match="valid is an object of lists of numbers"):
        load(tmp_path, "synthetic", DESIGN)
