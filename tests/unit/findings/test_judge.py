from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.judge import judge, missing
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.students import STUDENTS, student_runs, verdicts


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    return history.read(EXPECTED / "imagenet" / "histories.csv")


# The source's own tables


def test_the_source_tables_give_each_finding_and_recipe_this_verdict(source: pd.DataFrame) -> None:
    assert {(j.finding.id, j.recipe): (j.verdict, sum(c.verdict == "holds" for c in j.gating), len(j.gating))
            for j in judge(source, DESIGN)} == {
        ("simple-converges-faster", "StepLR"): ("holds", 2, 2),
        ("simple-converges-faster", "constant lr"): ("holds", 2, 2),
        ("simple-is-best", "StepLR"): ("holds", 4, 4),
        ("simple-is-best", "constant lr"): ("holds", 4, 4),
        ("memory-hardly-trains", "StepLR"): ("holds", 10, 10),
        ("memory-hardly-trains", "constant lr"): ("holds", 10, 10),
        ("gelu-beats-relu", "StepLR"): ("holds", 4, 4),
        ("gelu-beats-relu", "constant lr"): ("holds", 4, 4),
        ("dense-beats-residual", "StepLR"): ("mixed", 7, 8),
        ("dense-beats-residual", "constant lr"): ("holds", 8, 8),
        ("frozen-memory-suffices", "StepLR"): ("holds", 4, 4),
        ("frozen-memory-suffices", "constant lr"): ("holds", 4, 4),
        ("loss-predicts-accuracy", "StepLR"): ("holds", 1, 1),
        ("loss-predicts-accuracy", "constant lr"): ("holds", 1, 1),
        ("scheduler-helps", "StepLR against constant lr"): ("mixed", 11, 14),
    }  # fmt: skip


def test_in_the_source_the_scheduler_helps_accuracy_in_7_of_7_and_loss_in_4_of_7(source: pd.DataFrame) -> None:
    _, clauses = verdicts("scheduler-helps", source, "StepLR against constant lr")
    assert {student: clauses[f"{student}-accuracy"] for student in STUDENTS} == dict.fromkeys(STUDENTS, "holds")
    assert {student: clauses[f"{student}-loss"] for student in STUDENTS} == {
        **dict.fromkeys(STUDENTS, "holds"),
        **dict.fromkeys(("Model4", "Model5", "Model6"), "fails"),
    }


def test_in_the_source_model7_has_a_lower_loss_than_model3_with_steplr_only(source: pd.DataFrame) -> None:
    _, clauses = verdicts("dense-beats-residual", source, "StepLR")
    assert [name for name, verdict in clauses.items() if verdict == "fails"] == ["Model7-Model3-not-better-loss"]
    assert clauses["Model7-Model3-not-better-accuracy"] == "holds"  # 0.645 twice: a tie is not better


@pytest.mark.parametrize(("recipe", "own"), [("StepLR", "fails"), ("constant lr", "holds")])
def test_in_the_source_memory_models_are_ahead_after_epoch_1_and_never_again(
    source: pd.DataFrame, recipe: str, own: str
) -> None:
    _, clauses = verdicts("simple-converges-faster", source, recipe)
    assert clauses == {
        "Model1-area": "holds",
        "Model2-area": "holds",
        "Model1-epochs": "holds",
        "Model2-epochs": "holds",
        "Model1-first": "fails",
        "Model2-first": "fails",
        "Model1-own": own,  # with StepLR memory models are the quicker ones to most of their own improvement
        "Model2-own": own,
    }


def test_the_source_race_by_hand(source: pd.DataFrame) -> None:
    judgement, _ = verdicts("simple-converges-faster", source)
    (clause,) = [c for c in judgement.clauses if c.id == "Model1-epochs"]
    # target: Model4's 0.281, which it reaches at epoch 10; Model1 falls from 0.864 to 0.145 in its second epoch
    assert clause.margin == pytest.approx(10 - (1 + math.log(0.864 / 0.281) / math.log(0.864 / 0.145)))
    assert "1.63 (Model1)" in clause.numbers
    assert "> 10 (Model3), 10 (Model4), > 10 (Model5)" in clause.numbers
    assert "one seed: no interval" in clause.describe()


def test_the_source_own_improvement_by_hand(source: pd.DataFrame) -> None:
    judgement, _ = verdicts("simple-converges-faster", source)
    (clause,) = [c for c in judgement.clauses if c.id == "Model1-own"]
    # 90% of the way from log 0.864 to log 0.099, after epoch 2; Model3 from log 0.674 to log 0.316, likewise
    own = math.log(0.864) - 0.9 * math.log(0.864 / 0.099)
    theirs = math.log(0.674) - 0.9 * math.log(0.674 / 0.316)
    mine = 2 + (math.log(0.145) - own) / math.log(0.145 / 0.112)
    assert clause.margin == pytest.approx(2 + (math.log(0.353) - theirs) / math.log(0.353 / 0.338) - mine)
    assert clause.rival == "Model3"
    assert f"{mine:.2f} (Model1)" in clause.numbers


def test_the_source_correlations_by_hand(source: pd.DataFrame) -> None:
    with_steps, _ = verdicts("loss-predicts-accuracy", source, "StepLR")
    # ranks of the last epoch's numbers, 0.696 and 0.645 twice each
    losses = np.array([1, 2, 5, 3, 7, 6, 4.0])
    accuracies = np.array([6.5, 6.5, 2.5, 5, 1, 4, 2.5])
    assert -0.8 - with_steps.clauses[0].margin == pytest.approx(np.corrcoef(losses, accuracies)[0, 1])


# Shapes


def test_the_last_epoch_is_the_last_that_all_have() -> None:
    frame = student_runs(epochs=6)
    short = frame[~((frame["configuration"] == "Model6") & (frame["epoch"] > 4))]
    judgement, _ = verdicts("gelu-beats-relu", short)
    assert "judged at epoch 4: not every run goes on to epoch 6" in judgement.describe()
    at_four = frame[(frame["configuration"] == "Model3") & (frame["epoch"] == 4)]["train_loss"].item()
    assert f"{at_four:.3f} (Model3)" in judgement.clauses[0].numbers


def test_one_seed_is_judged_by_sign_and_says_so(source: pd.DataFrame) -> None:
    for judgement in judge(source, DESIGN):
        assert not judgement.tested
        assert judgement.summary.startswith(f"{judgement.verdict} by sign (one seed, no test): ")
        assert {clause.method for clause in judgement.clauses} == {"sign of one seed, no test"}
        assert all(math.isnan(clause.p) for clause in judgement.clauses)


def test_one_epoch_is_enough() -> None:
    frame = student_runs()
    assert len(judge(frame[frame["epoch"] == 4], DESIGN)) == 15


def test_rows_may_come_in_any_order() -> None:
    frame = student_runs(seeds=3, noise=0.05)
    shuffled = frame.sample(frac=1, random_state=0)
    assert judge(shuffled, DESIGN) == judge(frame, DESIGN)


def test_lacking_configurations_are_named_and_the_other_recipe_is_judged() -> None:
    frame = student_runs()
    frame = frame[~frame["configuration"].isin(["lr_Model5", "lr_Model6"])]
    chosen = DESIGN.finding("gelu-beats-relu")
    assert missing(chosen, frame, DESIGN) == {"StepLR": ["lr_Model5", "lr_Model6"]}
    assert [j.recipe for j in judge(frame, DESIGN, chosen=[chosen])] == ["constant lr"]
    assert missing(DESIGN.finding("scheduler-helps"), frame, DESIGN) == {
        "StepLR against constant lr": ["lr_Model5", "lr_Model6"]
    }
    assert judge(frame, DESIGN, chosen=[DESIGN.finding("scheduler-helps")]) == []
    assert judge(history.frame([]), DESIGN) == []


def test_no_common_seed_is_lacking_too() -> None:
    frame = student_runs(prefixes=("",), seeds=2)
    apart = frame[(frame["configuration"] == "Model3") == (frame["seed"] == 0)]
    assert "a seed and an epoch" in missing(DESIGN.finding("gelu-beats-relu"), apart, DESIGN)["constant lr"][0]
    assert judge(apart, DESIGN, chosen=[DESIGN.finding("gelu-beats-relu")]) == []


def test_an_unknown_finding_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"gelu-beat-relu.*Did you mean gelu-beats-relu.*scheduler-helps"):
        DESIGN.finding("gelu-beat-relu")


def test_the_limits_are_told_where_the_finding_is() -> None:
    assert "at most 1.2x Model3's" in DESIGN.finding("dense-beats-residual").describe(DESIGN.groups)
    assert "at most 0.01 below Model5's" in DESIGN.finding("frozen-memory-suffices").describe(DESIGN.groups)
    assert list(DESIGN.findings) == [
        "simple-converges-faster",
        "simple-is-best",
        "memory-hardly-trains",
        "gelu-beats-relu",
        "dense-beats-residual",
        "frozen-memory-suffices",
        "loss-predicts-accuracy",
        "scheduler-helps",
    ]
