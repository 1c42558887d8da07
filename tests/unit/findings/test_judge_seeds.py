from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvbench.findings.judge import FAMILY_ERROR, judge
from tests.support import DESIGN
from tests.support.students import STUDENTS, student_runs, verdicts


def test_several_seeds_are_judged_by_the_interval_of_paired_margins() -> None:
    frame = student_runs(seeds=4, noise=0.001)
    judgement, _ = verdicts("gelu-beats-relu", frame)
    clause = judgement.clauses[0]
    last = frame[frame["epoch"] == 4].pivot_table(index="seed", columns="configuration", values="train_loss")
    margins = (last["Model5"] / last["Model3"]).apply(np.log)
    assert clause.margins == pytest.approx(margins.to_dict())
    half = 3.182446 * margins.std(ddof=1) / 2
    assert (clause.margin, clause.low, clause.high) == pytest.approx(
        (margins.mean(), margins.mean() - half, margins.mean() + half)
    )
    assert clause.n == 4
    assert clause.verdict == "holds"
    assert clause.method == "t"
    assert clause.p == pytest.approx(stats.ttest_1samp(margins, 0, alternative="greater").pvalue)
    assert f"margin {math.exp(clause.margin):.3g}x, 95% interval" in clause.describe()
    assert f"4 seeds, p = {clause.p:.2g} by t at level {clause.level:.2g}" in clause.describe()


def test_an_interval_over_zero_is_undecided_and_one_below_fails() -> None:
    wide = student_runs({"Model5": 0.321}, seeds=3, noise=0.2)
    judgement, clauses = verdicts("gelu-beats-relu", wide)
    assert clauses["Model3-Model5-loss"] == "undecided"
    assert judgement.verdict == "undecided"
    worse = student_runs({"Model5": 0.2, "Model6": 0.2}, {"Model5": 0.7, "Model6": 0.7}, seeds=3, noise=0.001)
    judgement, clauses = verdicts("gelu-beats-relu", worse)
    assert set(clauses.values()) == {"fails"}
    assert judgement.verdict == "fails"


def test_equal_seeds_are_judged_by_sign() -> None:
    judgement, clauses = verdicts("gelu-beats-relu", student_runs({"Model5": 0.32}, seeds=12))
    assert clauses["Model3-Model5-loss"] == "fails"  # no difference at all is not better
    assert clauses["Model4-Model6-loss"] == "holds"
    assert judgement.clauses[0].n == 12
    assert [c.p for c in judgement.clauses] == [4 * 2**-12, 2**-12, 2**-12, 2**-12]  # any of four might fail by chance
    _, clauses = verdicts("gelu-beats-relu", student_runs({"Model5": 0.32}, seeds=3))
    assert set(clauses.values()) == {"undecided"}  # three equal signs come by chance once in eight times


def test_some_hold_and_some_undecided_is_undecided() -> None:
    frame = student_runs({"Model5": 0.321}, seeds=3, noise=0.005)
    judgement, clauses = verdicts("gelu-beats-relu", frame)
    assert sorted(set(clauses.values())) == ["holds", "undecided"]
    assert judgement.verdict == "undecided"
    assert judgement.summary == "undecided: 3 of 4 clauses hold, 1 undecided"


def test_seeds_are_paired_and_a_lone_one_is_left_out_in_words() -> None:
    frame = student_runs(seeds=3)
    frame = frame[~((frame["configuration"] == "Model5") & (frame["seed"] == 1))]
    judgement, _ = verdicts("gelu-beats-relu", frame)
    assert list(judgement.clauses[0].margins) == [0, 2]
    assert "left out, as not every configuration has it: seed 1" in judgement.describe()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverged_leaves_its_clauses_undecided(bad: float) -> None:
    frame = student_runs(seeds=3, noise=0.001)
    frame.loc[(frame["configuration"] == "Model3") & (frame["seed"] == 2), "train_loss"] = bad
    judgement, clauses = verdicts("gelu-beats-relu", frame)
    assert clauses["Model3-Model5-loss"] == "undecided"
    assert clauses["Model4-Model6-loss"] == "holds"
    assert "a number is missing or not finite for seed 2" in judgement.describe()
    assert judgement.clauses[0].n == 2
    for other in judge(frame, DESIGN):  # none trips over it
        other.describe()


@pytest.mark.parametrize(
    ("name", "title", "first"),
    [
        ("loss-predicts-accuracy", "spearman", 11),  # 2**-11 <= 0.01 / 15 < 2**-10
        ("gelu-beats-relu", "Model3-Model5-loss", 13),  # one of 4 clauses
        ("dense-beats-residual", "Model7-Model3-not-better-loss", 14),  # of 8
        ("simple-converges-faster", "Model1-epochs", 14),  # of 2, against 5 rivals
        ("memory-hardly-trains", "Model3-loss", 14),  # of 10
        ("memory-hardly-trains", "Model3-accuracy", 15),  # of 10, against 2 rivals
        ("simple-is-best", "Model1-loss", 15),  # of 4, against 5 rivals
    ],
)
def test_signs_are_flipped_from_as_many_seeds_on_as_let_a_clause_fail_at_the_finest_level(
    name: str, title: str, first: int
) -> None:
    judged = [verdicts(name, student_runs(seeds=count, noise=0.01))[0] for count in (first - 1, first)]
    assert [{c.id: c.method for c in judgement.clauses}[title] for judgement in judged] == ["t", "sign flips"]


def test_where_all_of_13_seeds_agree_only_one_flip_is_as_large() -> None:
    clause = verdicts("gelu-beats-relu", student_runs(seeds=13, noise=0.01))[0].clauses[0]
    assert clause.p == 2**-13
    assert clause.verdict == "holds"
    assert "13 seeds, p = 0.00012 by sign flips at level 0.01" in clause.describe()


# One family


def with_margins(margins: Sequence[float]) -> pd.DataFrame:
    """Four configurations that hold one finding by these margins, a seed each, among others that are all noise."""
    frame = student_runs(seeds=len(margins), noise=0.5)
    for name in ("Model3", "Model4", "Model5", "Model6"):
        mine = frame["configuration"] == name
        seeds = frame.loc[mine, "seed"]
        steps = np.array(margins)[seeds] * (name in {"Model5", "Model6"})
        steps += 1e-5 * (-1.0) ** seeds * (name in {"Model4", "Model6"})  # so that their lag has some spread
        frame.loc[mine, "train_loss"] = 0.3 * np.exp(steps)
        frame.loc[mine, "val_accuracy"] = 0.6 - steps
    return frame


CLEAR = (0.0100, 0.0120, 0.0150, 0.0110)  # p = 0.0008 by t
CLOSE = (0.0045, 0.0065, 0.0095, 0.0055)  # p = 0.0046


def test_all_judgements_of_a_call_share_one_error() -> None:
    frame = with_margins(CLOSE)
    alone, _ = verdicts("gelu-beats-relu", frame)
    among = {(j.finding.id, j.recipe): j for j in judge(frame, DESIGN)}
    clause = among["gelu-beats-relu", "constant lr"].clauses[0]
    assert alone.clauses[0].p == clause.p == pytest.approx(0.0046, abs=1e-5)
    assert {c.level for c in alone.clauses} == {FAMILY_ERROR / 2}  # of two recipes
    assert alone.verdict == "holds"
    # of 15, after the one that is sure: Model3 and Model4 are nearly equal here, as are Model5 and Model6
    assert among["frozen-memory-suffices", "constant lr"].verdict == "holds"
    assert clause.level == FAMILY_ERROR / 14
    assert clause.verdict == "undecided"


def test_what_is_sure_leaves_its_share_to_the_others() -> None:
    sure = judge(student_runs(seeds=11), DESIGN)  # without noise every judgement is sure
    assert "undecided" not in {judgement.verdict for judgement in sure}
    assert all(len({clause.level for clause in judgement.clauses}) == 1 for judgement in sure)
    levels = [judgement.clauses[0].level for judgement in sure]
    assert levels == pytest.approx([FAMILY_ERROR / left for left in range(15, 0, -1)])
    noisy = student_runs(dict.fromkeys(STUDENTS, 0.3), dict.fromkeys(STUDENTS, 0.6), seeds=3, noise=0.5)
    unsure = judge(noisy, DESIGN)
    assert {judgement.verdict for judgement in unsure} == {"undecided"}
    assert {clause.level for judgement in unsure for clause in judgement.clauses} == {FAMILY_ERROR / 15}


def test_one_clause_that_fails_needs_more_than_all_that_hold() -> None:
    for margins, verdict in ((CLEAR, "fails"), (CLOSE, "undecided")):
        held, _ = verdicts("gelu-beats-relu", with_margins(margins))
        failed, _ = verdicts("gelu-beats-relu", with_margins([-margin for margin in margins]))
        assert held.verdict == "holds"
        assert failed.verdict == verdict
        # any of four clauses might fail by chance
        assert [c.p for c in failed.clauses] == pytest.approx([4 * c.p for c in held.clauses])


def test_a_judgement_is_as_sure_as_its_least_sure_clause_or_its_surest_failure() -> None:
    frame = student_runs(seeds=12, noise=0.1)
    # with a tie the finding's p-value is that of its failure; without, that of the least sure of its clauses
    tied = frame.copy()
    ours = tied["configuration"].isin(["Model3", "Model5"])
    tied.loc[ours, "train_loss"] = 0.3
    first, second = (judge(f, DESIGN, chosen=[DESIGN.finding("gelu-beats-relu")]) for f in (frame, tied))
    assert [j.recipe for j in first] == ["StepLR", "constant lr"]
    # the surer one gets half of the error, the other all of it
    by_p = {max(c.p for c in j.clauses): j.clauses[0].level for j in first}
    assert [by_p[p] for p in sorted(by_p)] == [FAMILY_ERROR / 2, FAMILY_ERROR]
    # constant lr comes second by its least sure clause, and first by the tie, which any of four clauses might be
    assert [j.clauses[0].level for j in first] == [FAMILY_ERROR / 2, FAMILY_ERROR]
    assert second[1].clauses[0].verdict == "fails"
    assert second[1].clauses[0].p == 4 * 2**-12
    assert second[1].clauses[0].level == FAMILY_ERROR / 2
    assert second[0].clauses[0].level == FAMILY_ERROR


def test_one_seed_says_that_nothing_was_tested() -> None:
    judgement, _ = verdicts("gelu-beats-relu", student_runs())
    assert judgement.summary == "holds by sign (one seed, no test): 4 of 4 clauses hold"
    assert not judgement.tested
    several, _ = verdicts("gelu-beats-relu", student_runs(seeds=2, noise=1e-4))
    assert several.summary == "holds: 4 of 4 clauses hold"
    assert several.tested


def test_what_could_not_be_tested_is_not_called_one_seed() -> None:
    frame = student_runs(seeds=3)
    frame.loc[(frame["configuration"] == "Model3") & (frame["seed"] == 2), "train_loss"] = math.nan
    judgement, _ = verdicts("loss-predicts-accuracy", frame)
    assert judgement.summary == "undecided: 0 of 1 clauses hold, 1 undecided"
