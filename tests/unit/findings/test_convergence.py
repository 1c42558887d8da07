from __future__ import annotations

import math

import pandas as pd
import pytest

from kvbench.findings.clauses import Clause
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import sooner
from tests.support.students import STUDENTS, student_runs, verdicts

RACE = Finding("race", "simple models get there first", sooner("simple", "memory"))


def test_a_simple_model_that_never_gets_there_fails_whatever_the_bound() -> None:
    slow = student_runs({"Model1": 0.5}, seeds=9)  # without spread: enough for signs that all agree
    _, clauses = verdicts(RACE, slow)
    assert (clauses["Model1-epochs"], clauses["Model2-epochs"]) == ("fails", "holds")
    dip = (slow["configuration"] == "Model4") & (slow["seed"] == 0) & (slow["epoch"] == 3)
    slow.loc[dip, "train_loss"] = 0.2  # so that the bounds differ, and their interval alone would be undecided
    judgement, clauses = verdicts(RACE, slow)
    assert clauses["Model1-epochs"] == "fails"
    assert judgement.clauses[0].p == 2 * 2**-9  # either of two clauses might fail by chance
    assert judgement.clauses[0].low < 0 < judgement.clauses[0].high
    assert "> 4 (Model1)" in judgement.clauses[0].numbers
    assert "not reached within epoch 4" in judgement.clauses[0].describe()


def test_seconds_and_flops_are_reported_beside_and_do_not_count() -> None:
    seconds = {**dict.fromkeys(STUDENTS, 1.0), "Model1": 10.0}
    costs = {**dict.fromkeys(STUDENTS, 100.0), "Model2": 1000.0}
    judgement, clauses = verdicts(RACE, student_runs(seconds=seconds), costs=costs)
    assert judgement.verdict == "holds"
    assert [c.id for c in judgement.gating] == ["Model1-epochs", "Model2-epochs"]
    assert (clauses["Model1-seconds"], clauses["Model2-seconds"]) == ("fails", "holds")
    assert (clauses["Model1-flops"], clauses["Model2-flops"]) == ("holds", "fails")
    margins = {c.id: c.margin for c in judgement.clauses}
    # Model4 needs 4 epochs to its own 0.30, Model1 a bit fewer, each 10 times as long
    reached = 1 + 3 * math.log(math.e / 0.30) / math.log(math.e / 0.10)
    assert margins["Model1-seconds"] == pytest.approx(math.log(4 / (10 * reached)))
    assert margins["Model1-flops"] == pytest.approx(math.log(4 / reached))


def test_an_epoch_that_stalled_decides_nothing_in_seconds() -> None:
    histories = student_runs(seconds=dict.fromkeys(STUDENTS, 1.0))
    stalled = histories.copy()
    stalled.loc[(stalled["configuration"] == "Model1") & (stalled["epoch"] == 1), "seconds"] = 1000.0
    both = [verdicts(RACE, frame)[0] for frame in (histories, stalled)]
    first, second = ({c.id: c.margin for c in judgement.clauses}["Model1-seconds"] for judgement in both)
    assert first == second > 0


def test_seconds_are_left_out_where_an_epoch_is_unknown_and_flops_where_a_model_is() -> None:
    gap = student_runs(seconds=dict.fromkeys(STUDENTS, 1.0))
    gap = gap[gap["epoch"] != 2]
    costs = dict.fromkeys(STUDENTS[:-1], 1.0)
    _, clauses = verdicts(RACE, gap, costs=costs)
    side_by_side = [f"Model{simple}-{what}" for simple in (1, 2) for what in ("first", "own")]
    assert list(clauses) == ["Model1-epochs", "Model2-epochs", *side_by_side]


def own(histories: pd.DataFrame) -> Clause:
    """The clause about Model1's own improvement."""
    judgement, _ = verdicts(RACE, histories)
    (clause,) = [clause for clause in judgement.clauses if clause.id == "Model1-own"]
    return clause


def test_a_models_own_improvement_does_not_depend_on_how_low_its_loss_is() -> None:
    clause = own(student_runs())
    # every curve falls by the same factor an epoch, so each has 90% of its improvement 90% of the way to epoch 4
    assert clause.numbers.startswith("3.70 (Model1), 3.70 (Model3)")
    assert clause.margin == pytest.approx(0, abs=1e-9)
    assert not clause.gating


def test_a_model_that_is_through_after_two_epochs_is_sooner_by_its_own_improvement_only() -> None:
    early = student_runs(seeds=9)  # without spread: enough for signs that all agree
    early.loc[(early["configuration"] == "Model1") & (early["epoch"] > 1), "train_loss"] = 2.0
    judgement, clauses = verdicts(RACE, early)
    assert clauses["Model1-epochs"] == "fails"
    assert clauses["Model1-own"] == "holds"
    assert judgement.verdict == "mixed"  # Model2 is as fast as ever; what is beside does not count
    assert own(early).margin == pytest.approx(3.7 - 1.9)


def test_a_model_that_never_improves_is_through_at_once() -> None:
    flat = student_runs()
    flat.loc[flat["configuration"] == "Model1", "train_loss"] = [3.0, 3.1, 3.2, 3.3]
    assert own(flat).numbers.startswith("1.00 (Model1)")


def test_own_improvement_is_unknown_where_a_number_is_missing() -> None:
    gap = student_runs(seeds=2)
    gap.loc[(gap["configuration"] == "Model5") & (gap["seed"] == 1) & (gap["epoch"] == 2), "train_loss"] = math.nan
    assert own(gap).verdict == "undecided"
    assert "for seed 1" in own(gap).describe()


def test_a_rival_that_never_gets_there_counts_as_the_last_epoch() -> None:
    judgement, _ = verdicts(RACE, student_runs())
    clause = judgement.clauses[0]
    reached = 1 + 3 * math.log(math.e / 0.30) / math.log(math.e / 0.10)
    assert clause.margin == pytest.approx(4 - reached)  # though all but Model4 would have needed more than 4 epochs
    assert "4 (Model4), > 4 (Model5)" in clause.numbers
