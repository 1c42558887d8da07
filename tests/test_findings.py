import math
from pathlib import Path

import numpy as np
import pytest

from kvbench import claims, history
from kvbench.errors import UserError
from kvbench.findings import FINDINGS, finding, judge, judge_all

EXPECTED = Path(__file__).parents[1] / "expected"
STUDENTS = [f"Model{n}" for n in range(1, 8)]
LOSSES = dict(zip(STUDENTS, (0.10, 0.11, 0.32, 0.30, 0.40, 0.36, 0.33), strict=True))
ACCURACIES = dict(zip(STUDENTS, (0.70, 0.69, 0.64, 0.65, 0.60, 0.62, 0.63), strict=True))


def made(losses=None, accuracies=None, *, prefixes=("lr_", ""), seeds=1, epochs=4, noise=0.0, seconds=None):
    """Curves that fall from e by the same factor each epoch to the last losses, given a student or a configuration."""
    losses, accuracies = {**LOSSES, **(losses or {})}, {**ACCURACIES, **(accuracies or {})}
    spread = np.random.default_rng(1)
    rows = []
    for name in [prefix + student for prefix in prefixes for student in STUDENTS]:
        student = name.removeprefix("lr_")
        for seed in range(seeds):
            last = losses.get(name, losses[student]) * math.exp(noise * spread.normal())
            accuracy = accuracies.get(name, accuracies[student]) + 0.2 * noise * spread.normal()
            rows += [
                {
                    "configuration": name,
                    "seed": seed,
                    "epoch": epoch,
                    "train_loss": math.e * (last / math.e) ** ((epoch - 1) / (epochs - 1)),
                    "val_accuracy": accuracy,
                    "seconds": None if seconds is None else seconds[student],
                }
                for epoch in range(1, epochs + 1)
            ]
    return history.frame(rows)


def verdicts(name, histories, recipe="constant lr", costs=None):
    (judgement,) = [j for j in judge(finding(name), histories, costs) if j.recipe == recipe]
    return judgement, {clause.id: clause.verdict for clause in judgement.clauses}


@pytest.fixture(scope="module")
def source():
    return history.read(EXPECTED / "imagenet" / "histories.csv")


# The source's own tables


def test_the_source_tables_give_each_finding_and_recipe_this_verdict(source):
    assert {(j.finding.id, j.recipe): (j.verdict, sum(c.verdict == "holds" for c in j.gating), len(j.gating))
            for j in judge_all(source)} == {
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


def test_in_the_source_the_scheduler_helps_accuracy_in_7_of_7_and_loss_in_4_of_7(source):
    _, clauses = verdicts("scheduler-helps", source, "StepLR against constant lr")
    assert {student: clauses[f"{student}-accuracy"] for student in STUDENTS} == dict.fromkeys(STUDENTS, "holds")
    assert {student: clauses[f"{student}-loss"] for student in STUDENTS} == {
        **dict.fromkeys(STUDENTS, "holds"),
        **dict.fromkeys(("Model4", "Model5", "Model6"), "fails"),
    }


def test_in_the_source_model7_has_a_lower_loss_than_model3_with_steplr_only(source):
    _, clauses = verdicts("dense-beats-residual", source, "StepLR")
    assert [name for name, verdict in clauses.items() if verdict == "fails"] == ["Model7-Model3-not-better-loss"]
    assert clauses["Model7-Model3-not-better-accuracy"] == "holds"  # 0.645 twice: a tie is not better


@pytest.mark.parametrize("recipe", ["StepLR", "constant lr"])
def test_in_the_source_memory_models_are_ahead_after_epoch_1_and_never_again(source, recipe):
    _, clauses = verdicts("simple-converges-faster", source, recipe)
    assert clauses == {
        "Model1-epochs": "holds",
        "Model2-epochs": "holds",
        "Model1-first": "fails",
        "Model2-first": "fails",
    }


def test_the_source_race_by_hand(source):
    judgement, _ = verdicts("simple-converges-faster", source)
    clause = judgement.clauses[0]
    # target: Model4's 0.281, which it reaches at epoch 10; Model1 falls from 0.864 to 0.145 in its second epoch
    assert clause.margin == pytest.approx(10 - (1 + math.log(0.864 / 0.281) / math.log(0.864 / 0.145)))
    assert "1.63 (Model1)" in clause.numbers
    assert "> 10 (Model3), 10 (Model4), > 10 (Model5)" in clause.numbers
    assert "one seed: no interval" in clause.describe()


def test_the_source_correlations_by_hand(source):
    with_steps, _ = verdicts("loss-predicts-accuracy", source, "StepLR")
    # ranks of the last epoch's numbers, 0.696 and 0.645 twice each
    losses = np.array([1, 2, 5, 3, 7, 6, 4.0])
    accuracies = np.array([6.5, 6.5, 2.5, 5, 1, 4, 2.5])
    assert -0.8 - with_steps.clauses[0].margin == pytest.approx(np.corrcoef(losses, accuracies)[0, 1])


# Each finding, on curves made for it


def test_made_curves_hold_every_finding_that_compares_students():
    for judgement in judge_all(made()):
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
def test_one_changed_number_fails_one_clause(name, losses, accuracies, failing):
    judgement, clauses = verdicts(name, made(losses, accuracies))
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
def test_a_limit_is_still_within(name, losses, accuracies):
    assert verdicts(name, made(losses, accuracies))[0].verdict == "holds"


def test_correlation_is_judged_at_its_limit():
    shuffled = dict(zip(STUDENTS, (0.70, 0.69, 0.60, 0.62, 0.65, 0.64, 0.63), strict=True))
    judgement, clauses = verdicts("loss-predicts-accuracy", made(accuracies=shuffled))
    assert clauses == {"spearman": "fails"}
    assert judgement.verdict == "fails"
    equal, clauses = verdicts("loss-predicts-accuracy", made(accuracies=dict.fromkeys(STUDENTS, 0.5)))
    assert clauses == {"spearman": "undecided"}
    assert "a number is missing or not finite for any seed" in equal.describe()


def test_scheduler_is_judged_per_student_and_metric():
    steps = made(losses={"lr_Model3": 0.2}, accuracies={"lr_Model2": 0.8})
    judgement, clauses = verdicts("scheduler-helps", steps, "StepLR against constant lr")
    assert [name for name, verdict in clauses.items() if verdict == "holds"] == ["Model2-accuracy", "Model3-loss"]
    assert judgement.summary == "mixed: 2 of 14 clauses hold, 12 fail"


# Time to the target


def test_a_simple_model_that_never_gets_there_fails_whatever_the_bound():
    slow = made({"Model1": 0.5}, seeds=3)
    _, clauses = verdicts("simple-converges-faster", slow)
    assert (clauses["Model1-epochs"], clauses["Model2-epochs"]) == ("fails", "holds")
    dip = (slow["configuration"] == "Model4") & (slow["seed"] == 0) & (slow["epoch"] == 3)
    slow.loc[dip, "train_loss"] = 0.2  # so that the bounds differ, and their interval alone would be undecided
    judgement, clauses = verdicts("simple-converges-faster", slow)
    assert clauses["Model1-epochs"] == "fails"
    assert judgement.clauses[0].low < 0 < judgement.clauses[0].high
    assert "> 4 (Model1)" in judgement.clauses[0].numbers
    assert "not reached within epoch 4" in judgement.clauses[0].describe()


def test_seconds_and_flops_are_reported_beside_and_do_not_count():
    seconds = {**dict.fromkeys(STUDENTS, 1.0), "Model1": 10.0}
    costs = {**dict.fromkeys(STUDENTS, 100.0), "Model2": 1000.0}
    judgement, clauses = verdicts("simple-converges-faster", made(seconds=seconds), costs=costs)
    assert judgement.verdict == "holds"
    assert [c.id for c in judgement.gating] == ["Model1-epochs", "Model2-epochs"]
    assert (clauses["Model1-seconds"], clauses["Model2-seconds"]) == ("fails", "holds")
    assert (clauses["Model1-flops"], clauses["Model2-flops"]) == ("holds", "fails")
    margins = {c.id: c.margin for c in judgement.clauses}
    # Model4 needs 4 epochs to its own 0.30, Model1 a bit fewer, each 10 times as long
    reached = 1 + 3 * math.log(math.e / 0.30) / math.log(math.e / 0.10)
    assert margins["Model1-seconds"] == pytest.approx(math.log(4 / (10 * reached)))
    assert margins["Model1-flops"] == pytest.approx(math.log(4 / reached))


def test_an_epoch_that_stalled_decides_nothing_in_seconds():
    histories = made(seconds=dict.fromkeys(STUDENTS, 1.0))
    stalled = histories.copy()
    stalled.loc[(stalled["configuration"] == "Model1") & (stalled["epoch"] == 1), "seconds"] = 1000.0
    both = [verdicts("simple-converges-faster", frame)[0] for frame in (histories, stalled)]
    first, second = ({c.id: c.margin for c in judgement.clauses}["Model1-seconds"] for judgement in both)
    assert first == second > 0


def test_seconds_are_left_out_where_an_epoch_is_unknown_and_flops_where_a_model_is():
    gap = made(seconds=dict.fromkeys(STUDENTS, 1.0))
    gap = gap[gap["epoch"] != 2]
    costs = dict.fromkeys(STUDENTS[:-1], 1.0)
    _, clauses = verdicts("simple-converges-faster", gap, costs=costs)
    assert list(clauses) == ["Model1-epochs", "Model2-epochs", "Model1-first", "Model2-first"]


# Seeds


def test_several_seeds_are_judged_by_the_interval_of_paired_margins():
    frame = made(seeds=4, noise=0.001)
    judgement, _ = verdicts("gelu-beats-relu", frame)
    clause = judgement.clauses[0]
    last = frame[frame["epoch"] == 4].pivot_table(index="seed", columns="configuration", values="train_loss")
    margins = np.log(last["Model5"] / last["Model3"])
    assert clause.margins == pytest.approx(margins.to_dict())
    half = 3.182446 * margins.std(ddof=1) / 2
    assert (clause.margin, clause.low, clause.high) == pytest.approx(
        (margins.mean(), margins.mean() - half, margins.mean() + half)
    )
    assert clause.n == 4
    assert clause.verdict == "holds"
    assert f"margin {math.exp(clause.margin):.3g}x, 95% interval" in clause.describe()


def test_an_interval_over_zero_is_undecided_and_one_below_fails():
    wide = made({"Model5": 0.321}, seeds=3, noise=0.2)
    judgement, clauses = verdicts("gelu-beats-relu", wide)
    assert clauses["Model3-Model5-loss"] == "undecided"
    assert judgement.verdict == "undecided"
    worse = made({"Model5": 0.2, "Model6": 0.2}, {"Model5": 0.7, "Model6": 0.7}, seeds=3, noise=0.001)
    judgement, clauses = verdicts("gelu-beats-relu", worse)
    assert set(clauses.values()) == {"fails"}
    assert judgement.verdict == "fails"


def test_equal_seeds_are_judged_by_sign():
    judgement, clauses = verdicts("gelu-beats-relu", made({"Model5": 0.32}, seeds=3))
    assert clauses["Model3-Model5-loss"] == "fails"  # no difference at all is not better
    assert clauses["Model4-Model6-loss"] == "holds"
    assert judgement.clauses[0].n == 3


def test_some_hold_and_some_undecided_is_undecided():
    frame = made({"Model5": 0.321}, seeds=3, noise=0.005)
    judgement, clauses = verdicts("gelu-beats-relu", frame)
    assert sorted(set(clauses.values())) == ["holds", "undecided"]
    assert judgement.verdict == "undecided"
    assert judgement.summary == "undecided: 3 of 4 clauses hold, 1 undecided"


def test_seeds_are_paired_and_a_lone_one_is_left_out_in_words():
    frame = made(seeds=3)
    frame = frame[~((frame["configuration"] == "Model5") & (frame["seed"] == 1))]
    judgement, _ = verdicts("gelu-beats-relu", frame)
    assert list(judgement.clauses[0].margins) == [0, 2]
    assert "left out, as not every configuration has it: seed 1" in judgement.describe()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverged_leaves_its_clauses_undecided(bad):
    frame = made(seeds=3)
    frame.loc[(frame["configuration"] == "Model3") & (frame["seed"] == 2), "train_loss"] = bad
    judgement, clauses = verdicts("gelu-beats-relu", frame)
    assert clauses["Model3-Model5-loss"] == "undecided"
    assert clauses["Model4-Model6-loss"] == "holds"
    assert "a number is missing or not finite for seed 2" in judgement.describe()
    assert judgement.clauses[0].n == 2
    for other in judge_all(frame):  # none trips over it
        other.describe()


# Shapes


def test_the_last_epoch_is_the_last_that_all_have():
    frame = made(epochs=6)
    short = frame[~((frame["configuration"] == "Model6") & (frame["epoch"] > 4))]
    judgement, _ = verdicts("gelu-beats-relu", short)
    assert "judged at epoch 4: not every run goes on to epoch 6" in judgement.describe()
    at_four = frame[(frame["configuration"] == "Model3") & (frame["epoch"] == 4)]["train_loss"].item()
    assert f"{at_four:.3f} (Model3)" in judgement.clauses[0].numbers


def test_one_epoch_is_enough():
    frame = made()
    assert len(judge_all(frame[frame["epoch"] == 4])) == 15


def test_rows_may_come_in_any_order():
    frame = made(seeds=3, noise=0.05)
    shuffled = frame.sample(frac=1, random_state=0)
    assert judge_all(shuffled) == judge_all(frame)


def test_lacking_configurations_are_named_and_the_other_recipe_is_judged():
    frame = made()
    frame = frame[~frame["configuration"].isin(["lr_Model5", "lr_Model6"])]
    chosen = finding("gelu-beats-relu")
    assert chosen.lacks(frame) == {"StepLR": ["lr_Model5", "lr_Model6"]}
    assert [j.recipe for j in judge(chosen, frame)] == ["constant lr"]
    assert finding("scheduler-helps").lacks(frame) == {"StepLR against constant lr": ["lr_Model5", "lr_Model6"]}
    assert judge(finding("scheduler-helps"), frame) == []
    assert judge_all(history.frame([])) == []


def test_no_common_seed_is_lacking_too():
    frame = made(prefixes=("",), seeds=2)
    apart = frame[(frame["configuration"] == "Model3") == (frame["seed"] == 0)]
    assert "a seed and an epoch" in finding("gelu-beats-relu").lacks(apart)["constant lr"][0]
    assert judge(finding("gelu-beats-relu"), apart) == []


def test_an_unknown_finding_names_the_valid_ones():
    with pytest.raises(UserError, match=r"gelu-beat-relu.*Did you mean gelu-beats-relu.*scheduler-helps"):
        finding("gelu-beat-relu")


def test_the_limits_are_told_where_the_finding_is():
    assert f"{claims.RESIDUAL_LOSS:g}x" in FINDINGS["dense-beats-residual"].judged_as
    assert f"{claims.FROZEN_ACCURACY:g}" in FINDINGS["frozen-memory-suffices"].judged_as
    assert list(FINDINGS) == [
        "simple-converges-faster",
        "simple-is-best",
        "memory-hardly-trains",
        "gelu-beats-relu",
        "dense-beats-residual",
        "frozen-memory-suffices",
        "loss-predicts-accuracy",
        "scheduler-helps",
    ]
