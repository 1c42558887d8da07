"""Probes held against those of a reference: whatever the seeds, and up to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.reference import probes
from kvbench.reference.probes import compare_probes
from kvbench.reference.store import Reference, load
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.results.saved import Outcome
from tests.support import DESIGN, synthetic
from tests.support.collected import collected

RECORDED = {
    "linear outputs": [3.0, 4.0],
    "linear learning": [1.0, 0.0],
    "memory outputs": [],
    "memory learning": [0.0, 2.0],
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    plain = synthetic.reference(tmp_path_factory.mktemp("probes"))
    return replace(plain, provenance={**plain.provenance, "probes": RECORDED})


def said(reference: Reference, **fresh: list[float]) -> str:
    mine = {**RECORDED, **{name.replace("_", " "): numbers for name, numbers in fresh.items()}}
    return probes.describe(compare_probes(reference, mine, reference.fingerprints))


def test_rounding_is_allowed_of_what_is_learned_more_than_of_what_is_computed(recorded: Reference) -> None:
    mine = {**RECORDED, "linear outputs": [3.0, 4.0 + 5 * 2**-15], "linear learning": [1.0 + 2**-11, 0.0]}
    drifts = compare_probes(recorded, mine, recorded.fingerprints)
    assert [drift.excess for drift in drifts] == pytest.approx([0.5, 0.5, 0, 0])
    assert probes.describe(drifts) == ""


def test_what_is_computed_is_named_before_what_is_learned(recorded: Reference) -> None:
    assert said(recorded, linear_learning=[1.5, 0.0]) == (
        "linear does not learn as it did when the reference was recorded: from fixed numbers its first steps are 50% of"
        " their size away, allowed are 0.1%. Look first at the loss, the optimizer and what is trained."
    )
    both = said(recorded, linear_outputs=[3.0, 4.1], linear_learning=[5.0, 0.0], memory_learning=[9.0, 9.0])
    assert both == (
        "linear does not compute what it did when the reference was recorded: from fixed numbers its outputs are 2% of"
        " their size away, allowed are 0.006%; so is 1 more. Look first at its layers, activations and what it reads."
    )


def test_a_student_that_draws_random_numbers_now_or_no_longer_is_another(recorded: Reference) -> None:
    assert said(recorded, linear_outputs=[]).startswith("linear does not compute what it did")
    assert said(recorded, memory_outputs=[1.0, 1.0]).startswith("memory does not compute what it did")


def test_nothing_is_said_of_what_a_side_lacks_or_was_made_from_something_else(recorded: Reference) -> None:
    mine = {"linear outputs": [0.0, 4.0], "other outputs": [1.0]}
    assert [one.column for one in compare_probes(recorded, mine, recorded.fingerprints)] == ["linear outputs"]
    prints = {**recorded.fingerprints, "recipe constant": "other"}
    of_one = replace(recorded, provenance={**recorded.provenance, "fingerprints": prints})
    assert compare_probes(of_one, mine, {**prints, "recipe constant": "another"}) == ()
    plain = {name: fact for name, fact in recorded.provenance.items() if name != "probes"}
    assert compare_probes(replace(recorded, provenance=plain), mine, recorded.fingerprints) == ()


def test_a_student_that_computes_something_else_fails_a_run_whose_curves_are_as_recorded(tmp_path: Path) -> None:
    synthetic.reference(tmp_path / "expected", probes=RECORDED)
    for new, outcome in ((RECORDED, Outcome.PASSED), ({**RECORDED, "linear outputs": [3.0, 3.0]}, Outcome.FAILED)):
        _, result = collected(tmp_path / "expected", "synthetic", DESIGN, synthetic.runs(range(2)), probes=new)
        assert result.outcome is outcome
    assert result.reasons[0].startswith("FAILED: linear does not compute what it did when")


def test_probes_of_configurations_that_are_recorded_anew_are_new(tmp_path: Path) -> None:
    runs = synthetic.runs(range(3))
    facts = {"fingerprints": {"teacher": "one"}, "probes": RECORDED}
    update(tmp_path, "synthetic", DESIGN, runs, facts, full=True)
    fresh = {"linear outputs": [5.0, 5.0]}
    update(tmp_path, "synthetic", DESIGN, history.of(runs, synthetic.ALL[0]), {**facts, "probes": fresh})
    assert load(tmp_path, "synthetic", DESIGN).provenance["probes"] == {**RECORDED, **fresh}
