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
    "linear steps": [1.0, 0.0],
    "memory outputs": [],
    "memory gradients": [0.0, 2.0],
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    plain = synthetic.reference(tmp_path_factory.mktemp("probes"))
    return replace(plain, provenance={**plain.provenance, "probes": RECORDED})


def said(reference: Reference, **fresh: list[float]) -> str:
    mine = {**RECORDED, **{name.replace("_", " "): numbers for name, numbers in fresh.items()}}
    return probes.describe(compare_probes(reference, mine, reference.fingerprints))


def test_rounding_is_allowed(recorded: Reference) -> None:
    mine = {**RECORDED, "linear outputs": [3.0, 4.0 + 5 * 2**-15]}
    drifts = compare_probes(recorded, mine, recorded.fingerprints)
    assert [drift.excess for drift in drifts] == pytest.approx([0.5, 0, 0, 0])
    assert probes.describe(drifts) == ""


def test_what_is_computed_is_named_before_what_is_learned(recorded: Reference) -> None:
    assert said(recorded, linear_steps=[1.5, 0.0]) == (
        "linear is not optimized as it was when the reference was recorded: its steps with fixed gradients are 50% of"
        " their size away, allowed are 0.006%. Look first at the optimizer and its arguments."
    )
    assert said(recorded, linear_steps=[1.5, 0.0], memory_gradients=[0.0, 2.1]) == (
        "memory does not learn what it did when the reference was recorded: its gradients for fixed numbers are 5% of"
        " their size away, allowed are 0.006%; so are those of 1 more. Look first at the loss and what is trained."
    )
    both = said(recorded, linear_outputs=[30.0, 4.1], linear_steps=[5.0, 0.0], memory_gradients=[9.0, 9.0])
    assert both == (
        "linear does not compute what it did when the reference was recorded: its outputs for fixed numbers are others"
        " altogether; so are those of 1 more. Look first at its layers, activations, what it reads, and the names and"
        " shapes of its parameters."
    )


def test_a_student_that_draws_random_numbers_now_or_no_longer_is_another(recorded: Reference) -> None:
    assert "its outputs for fixed numbers are other ones with each seed on one side" in said(
        recorded, linear_outputs=[]
    )
    assert said(recorded, memory_outputs=[1.0, 1.0]).startswith("memory does not compute what it did")


def test_nothing_is_compared_that_one_side_has_alone_or_that_was_made_from_something_else(recorded: Reference) -> None:
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


def test_probes_of_configurations_that_are_recorded_anew_are_new_and_no_old_one_stays(tmp_path: Path) -> None:
    runs = synthetic.runs(range(3))
    name = synthetic.ALL[0]
    kept = {"another outputs": [1.0]}
    facts = {"fingerprints": {"teacher": "one"}, "probes": {f"{name} outputs": [3.0], f"{name} steps": [4.0], **kept}}
    update(tmp_path, "synthetic", DESIGN, runs, facts, full=True)
    for fresh in ({f"{name} outputs": [5.0]}, {}):
        update(tmp_path, "synthetic", DESIGN, history.of(runs, name), {**facts, "probes": fresh})
        assert load(tmp_path, "synthetic", DESIGN).provenance["probes"] == {**kept, **fresh}
