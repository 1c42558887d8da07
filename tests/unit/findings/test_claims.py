from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.clauses import Claim
from kvbench.findings.curves import Runs
from kvbench.findings.judge import judge
from tests.support import DESIGN
from tests.support.students import STUDENTS, student_runs, verdicts


def test_made_curves_hold_every_finding_that_compares_students() -> None:
    for judgement in judge(student_runs(), DESIGN):
        if judgement.finding.id != "scheduler-helps":
            assert judgement.verdict == "holds", judgement.describe()


@pytest.mark.parametrize(
    ("name", "losses", "accuracies", "failing"),
    [
        ("simple-is-best", {"Model2": 0.31}, {}, ["Model2-loss"]),
        ("simple-is-best", {"Model2": 0.30}, {}, ["Model2-loss"]),  # a tie with Model4 is not best
        ("simple-is-best", {}, {"Model1": 0.645}, ["Model1-accuracy"]),
        ("memory-hardly-trains", {"Model4": 0.199}, {}, ["Model4-loss"]),
        ("memory-hardly-trains", {"Model1": 0.16, "Model2": 0.155}, {}, ["Model4-loss"]),  # the best simple one counts
        ("memory-hardly-trains", {}, {"Model7": 0.695}, ["Model7-accuracy"]),  # above the worst simple one
        ("gelu-beats-relu", {"Model5": 0.31}, {}, ["Model3-Model5-loss"]),
        ("gelu-beats-relu", {}, {"Model6": 0.66}, ["Model4-Model6-accuracy"]),
        ("gelu-beats-relu", {"Model6": 0.30}, {}, ["Model4-Model6-loss"]),
        ("dense-beats-residual", {"Model7": 0.31}, {}, ["Model7-Model3-not-better-loss"]),
        ("dense-beats-residual", {"Model7": 0.37}, {}, ["Model7-Model4-not-much-worse-loss"]),
        ("dense-beats-residual", {}, {"Model7": 0.645}, ["Model7-Model3-not-better-accuracy"]),
        ("dense-beats-residual", {}, {"Model7": 0.625}, ["Model7-Model4-not-much-worse-accuracy"]),
        ("frozen-memory-suffices", {"Model4": 0.337}, {}, ["Model4-Model3-loss"]),
        ("frozen-memory-suffices", {"Model6": 0.43}, {}, ["Model6-Model5-loss"]),
        ("frozen-memory-suffices", {}, {"Model4": 0.629}, ["Model4-Model3-accuracy"]),
        ("frozen-memory-suffices", {}, {"Model6": 0.589}, ["Model6-Model5-accuracy"]),
    ],
)
def test_one_changed_number_fails_one_clause(
    name: str, losses: dict[str, float], accuracies: dict[str, float], failing: list[str]
) -> None:
    judgement, clauses = verdicts(name, student_runs(losses, accuracies))
    assert [clause for clause, verdict in clauses.items() if verdict == "fails"] == failing
    assert judgement.verdict == "mixed"


@pytest.mark.parametrize(
    ("name", "losses", "accuracies"),
    [
        ("memory-hardly-trains", {"Model4": 0.2}, {}),
        ("dense-beats-residual", {"Model4": 0.30, "Model7": 0.36}, {"Model7": 0.63}),
        ("dense-beats-residual", {"Model7": 0.32}, {"Model7": 0.64}),
        ("frozen-memory-suffices", {"Model4": 0.336, "Model6": 0.42}, {"Model4": 0.63, "Model6": 0.59}),
    ],
)
def test_a_limit_is_still_within(name: str, losses: dict[str, float], accuracies: dict[str, float]) -> None:
    assert verdicts(name, student_runs(losses, accuracies))[0].verdict == "holds"


def test_correlation_is_judged_at_its_limit() -> None:
    shuffled = dict(zip(STUDENTS, (0.70, 0.69, 0.60, 0.62, 0.65, 0.64, 0.63), strict=True))
    judgement, clauses = verdicts("loss-predicts-accuracy", student_runs(accuracies=shuffled))
    assert clauses == {"spearman": "fails"}
    assert judgement.verdict == "fails"
    equal, clauses = verdicts("loss-predicts-accuracy", student_runs(accuracies=dict.fromkeys(STUDENTS, 0.5)))
    assert clauses == {"spearman": "undecided"}
    assert "a number is missing or not finite for any seed" in equal.describe()


def test_scheduler_is_judged_per_student_and_metric() -> None:
    steps = student_runs(losses={"lr_Model3": 0.2}, accuracies={"lr_Model2": 0.8})
    judgement, clauses = verdicts("scheduler-helps", steps, "StepLR against constant lr")
    assert [name for name, verdict in clauses.items() if verdict == "holds"] == ["Model2-accuracy", "Model3-loss"]
    assert judgement.summary == "mixed by sign (one seed, no test): 2 of 14 clauses hold, 12 fail"


# Margins against each rival


def claims_of(name: str, histories: pd.DataFrame) -> dict[str, Claim]:
    """What a finding claims about the constant lr, by id."""
    chosen = DESIGN.finding(name)
    taken = Runs.of(histories).curves(DESIGN.groups, *DESIGN.scopes(chosen)["constant lr"])
    return {claim.id: claim for claim in chosen.claims(taken, {})}


def test_a_simple_model_has_a_margin_against_each_memory_model_at_each_seed() -> None:
    histories = student_runs(seeds=3, noise=0.1)
    claim = claims_of("simple-is-best", histories)["Model2-loss"]
    last = histories[histories["epoch"] == 4].pivot_table(index="seed", columns="configuration", values="train_loss")
    assert claim.rivals == ("Model3", "Model4", "Model5", "Model6", "Model7")
    assert claim.seeds == (0, 1, 2)
    expected = [np.log(last[rival] / last["Model2"]) for rival in claim.rivals]
    np.testing.assert_allclose(claim.margins, np.stack(expected, axis=1))


def test_a_memory_model_is_held_against_the_best_simple_one_of_each_seed() -> None:
    histories = student_runs(seeds=2)
    swapped = histories["seed"] == 1
    histories.loc[swapped & (histories["configuration"] == "Model1"), "train_loss"] *= (
        1.5  # 0.15, so that Model2's counts
    )
    claim = claims_of("memory-hardly-trains", histories)["Model3-loss"]
    np.testing.assert_allclose(claim.margins[:, 0], np.log([0.32 / 0.10 / 2, 0.32 / 0.11 / 2]))


def test_limits_are_in_the_margins() -> None:
    frozen = claims_of("frozen-memory-suffices", student_runs())
    assert frozen["Model4-Model3-loss"].margins.item() == pytest.approx(math.log(1.05 * 0.32 / 0.30))
    assert frozen["Model6-Model5-accuracy"].margins.item() == pytest.approx(0.62 - 0.60 + 0.01)
    residual = claims_of("dense-beats-residual", student_runs())
    assert residual["Model7-Model3-not-much-worse-loss"].margins.item() == pytest.approx(math.log(1.2 * 0.32 / 0.33))
    assert residual["Model7-Model4-not-better-accuracy"].margins.item() == pytest.approx(0.65 - 0.63)
    assert claims_of("loss-predicts-accuracy", student_runs())["spearman"].margins.item() == pytest.approx(0.2)


def test_only_limits_and_not_better_give_ties_to_the_sentence() -> None:
    held = {
        claim.id.rpartition("-")[0]
        for name in DESIGN.findings
        if not DESIGN.finding(name).across
        for claim in claims_of(name, student_runs()).values()
        if claim.tie_holds
    }
    assert held == {
        *(f"Model{memory}" for memory in range(3, 8)),  # at least 2x the best simple loss
        *(f"Model7-Model{dense}-not-{what}" for dense in (3, 4) for what in ("better", "much-worse")),
        "Model4-Model3",
        "Model6-Model5",
        "",  # the correlation
    }
