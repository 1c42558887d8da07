"""Terms: what they claim, of whom, in which words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvbench.findings.clauses import Claim
from kvbench.findings.curves import Costs, Curves, Runs, means
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding, Terms
from kvbench.findings.judge import judge
from kvbench.findings.vocabulary import (
    above,
    any_of,
    at_least,
    below,
    best_of,
    better,
    correlates,
    monotone,
    no_worse,
    not_better,
    sooner,
)
from kvbench.results import history
from kvbench.utils.errors import UserError

STUDENTS = ("linear", "sum", "mlp", "conv")
GROUPS = {"shallow": ("linear", "sum"), "deep": ("mlp", "conv")}
DESIGN = Design("mine", {"cosine": {s: f"cos_{s}" for s in STUDENTS}, "constant": {s: s for s in STUDENTS}}, GROUPS)
LAST = {"linear": 0.1, "sum": 0.2, "mlp": 0.4, "conv": 0.5}  # losses; accuracies are 1 less these


def runs(losses: Mapping[str, Sequence[float]] | None = None, **columns: Mapping[str, float]) -> pd.DataFrame:
    """Three epochs of every configuration, one seed for each loss that a configuration is given."""
    rows = []
    for name in DESIGN.names:
        student = DESIGN.find(name)[1]
        given = (losses or {}).get(name, (losses or {}).get(student, [LAST[student]]))
        for seed, last in enumerate(given):
            for epoch in (1, 2, 3):
                row: dict[str, Any] = {"configuration": name, "seed": seed, "epoch": epoch}
                loss = last * 4 ** (3 - epoch)
                row |= {"train_loss": loss, "val_loss": 2 * loss, "val_accuracy": 1 - last, "agreement": 1 - last / 2}
                rows.append(row | {metric: values[student] for metric, values in columns.items() if student in values})
    return history.frame(rows)


def claims(terms: Terms, histories: pd.DataFrame | None = None, recipe: str = "constant") -> dict[str, Claim]:
    """What terms claim, by id."""
    row = Finding("it", "it is so", terms)
    curves = Runs.of(runs() if histories is None else histories).curves(GROUPS, *DESIGN.scopes(row)[recipe])
    return {claim.id: claim for claim in row.claims(curves, {})}


def test_a_term_about_a_group_makes_a_clause_for_each_of_its_students_against_each_rival() -> None:
    found = claims(below("shallow", "deep", "val_loss"))
    assert list(found) == ["linear-val_loss", "sum-val_loss"]
    claim = found["sum-val_loss"]
    assert claim.sentence == "sum's validation loss is below every deep model's"
    assert claim.rivals == ("mlp", "conv")
    np.testing.assert_allclose(claim.margins, np.log([[0.4 / 0.2, 0.5 / 0.2]]))
    assert claim.values == {"sum": "0.400", "mlp": "0.800", "conv": "1.000"}
    assert (claim.scale, claim.tie_holds, claim.some, claim.gating) == ("ratio", False, False, True)


def test_students_go_by_their_configurations_in_another_recipe() -> None:
    (claim,) = claims(above("linear", "mlp"), recipe="cosine").values()
    assert claim.id == "linear-mlp-accuracy"
    assert claim.sentence == "cos_linear's accuracy is above cos_mlp's"
    assert claim.rivals == ("cos_mlp",)
    assert claim.margins.item() == pytest.approx(0.3)
    assert claim.scale == "difference"


def test_a_student_is_no_rival_of_its_own() -> None:
    found = claims(above("deep", ("deep", "linear")))
    assert found["mlp-accuracy"].rivals == ("conv", "linear")
    assert found["mlp-accuracy"].sentence == "mlp's accuracy is above every other deep or linear model's"
    assert claims(above("mlp", "all"))["mlp-accuracy"].rivals == ("linear", "sum", "conv")
    with pytest.raises(UserError, match="mlp is compared with nobody but itself"):
        claims(above("mlp", "mlp"))


def test_the_best_rival_is_the_best_at_each_seed() -> None:
    histories = runs({"linear": [0.1, 0.3], "sum": [0.2, 0.2], "mlp": [0.4, 0.4], "conv": [0.5, 0.5]})
    (claim,) = claims(at_least(2, "mlp", best_of("shallow")), histories).values()
    assert claim.id == "mlp-loss"
    assert claim.sentence == "mlp's training loss is at least 2x the best shallow model's"
    assert claim.rivals == ("the best shallow model",)
    np.testing.assert_allclose(claim.margins[:, 0], np.log([0.4 / 0.1 / 2, 0.4 / 0.2 / 2]), atol=1e-15)
    assert claim.tie_holds
    (claim,) = claims(above("mlp", best_of("shallow")), histories).values()
    np.testing.assert_allclose(claim.margins[:, 0], [0.6 - 0.9, 0.6 - 0.8])


@pytest.mark.parametrize(
    ("rivals", "losses", "verdict", "note"),
    [
        ("shallow", {"linear": 0.45, "sum": 0.2}, "fails", "the closest rival is sum"),
        (any_of("shallow"), {"linear": 0.45, "sum": 0.2}, "holds", "ahead of linear"),
        (any_of("shallow"), {"linear": 0.3, "sum": 0.2}, "fails", "ahead of linear"),
        (best_of("shallow"), {"linear": 0.45, "sum": 0.2}, "fails", ""),
    ],
)
@pytest.mark.parametrize("seeds", [1, 9])
def test_against_every_one_of_a_group_any_one_or_the_best(
    rivals: Any, losses: dict[str, float], verdict: str, note: str, seeds: int
) -> None:
    row = Finding("it", "mlp is better", below("mlp", rivals))
    design = Design("mine", {"constant": DESIGN.configurations["constant"]}, GROUPS, {row.id: row})
    spread = np.exp(0.01 * np.random.default_rng(1).normal(size=seeds))
    histories = runs(
        {s: list(LAST[s] * spread) for s in STUDENTS} | {s: list(loss * spread[::-1]) for s, loss in losses.items()}
    )
    (judgement,) = judge(histories, design)
    assert judgement.verdict == verdict
    assert note in judgement.clauses[0].note


def test_recipes_are_compared_student_by_student() -> None:
    histories = runs({"cos_linear": [0.05], "cos_mlp": [0.8]})
    found = claims(better("all", across=("cosine", "constant")), histories, "cosine against constant")
    assert list(found) == [f"{student}-{metric}" for student in STUDENTS for metric in ("loss", "accuracy")]
    assert found["linear-loss"].sentence == "cos_linear's training loss is below linear's"
    assert found["linear-loss"].values == {"cos_linear": "0.050", "linear": "0.100"}
    assert found["linear-loss"].rivals == ("linear",)
    assert found["linear-loss"].margins.item() == pytest.approx(math.log(2))
    assert found["mlp-accuracy"].margins.item() == pytest.approx(0.2 - 0.6)
    (claim,) = claims(above("mlp", "linear", across=("cosine", "constant")), recipe="cosine against constant").values()
    assert claim.sentence == "cos_mlp's accuracy is above linear's"


def test_terms_about_the_same_students_alternate() -> None:
    terms = [below("deep", "shallow", "val_loss"), above("deep", "shallow", "agreement"), above("sum", "linear")]
    assert list(claims(terms)) == [
        "mlp-val_loss", "mlp-agreement", "conv-val_loss", "conv-agreement", "sum-linear-accuracy",
    ]  # fmt: skip


def test_limits_are_in_the_margins_and_in_the_words() -> None:
    found = claims([not_better("mlp", "linear"), no_worse("mlp", "linear", {"train_loss": 5, "val_accuracy": 0.4})])
    assert {name: claim.sentence for name, claim in found.items()} == {
        "mlp-linear-not-better-loss": "mlp's training loss is not better than linear's",
        "mlp-linear-not-better-accuracy": "mlp's accuracy is not better than linear's",
        "mlp-linear-loss": "mlp's training loss is at most 5x linear's",
        "mlp-linear-accuracy": "mlp's accuracy is at most 0.4 below linear's",
    }
    margins = [claim.margins.item() for claim in found.values()]
    np.testing.assert_allclose(margins, [math.log(4), 0.3, math.log(5 / 4), 0.1])
    assert all(claim.tie_holds for claim in found.values())


def test_monotone_has_a_clause_for_each_pair_of_neighbours() -> None:
    found = claims(monotone("conv", "mlp", "sum"))
    assert [claim.sentence for claim in found.values()] == [
        "mlp's accuracy is above conv's",
        "sum's accuracy is above mlp's",
    ]
    np.testing.assert_allclose([claim.margins.item() for claim in found.values()], [0.1, 0.2])
    (claim,) = claims(monotone("mlp", "sum", metric="train_loss", falling=True)).values()
    assert claim.sentence == "sum's training loss is below mlp's"


def test_correlations_over_some_students() -> None:
    (claim,) = claims(correlates("train_loss", "val_loss", "all", at_least=0.9, label="losses")).values()
    assert claim.id == "losses"
    assert claim.margins.item() == pytest.approx(0.1)
    assert claim.sentence == "Spearman's correlation of training loss and validation loss is at least 0.9"
    histories = runs(agreement={"linear": 0.1, "sum": 0.3, "mlp": 0.2})
    (claim,) = claims(correlates("train_loss", "agreement", ("shallow", "mlp"), at_most=0), histories).values()
    assert claim.margins.item() == pytest.approx(-0.5)


# Sooner


def test_sooner_by_the_area_is_the_mean_log_ratio_of_the_curves_and_tells_the_rest_beside() -> None:
    found = claims(sooner("linear", "deep", by="area"))
    gating = [claim for claim in found.values() if claim.gating]
    assert [claim.id for claim in gating] == ["linear-area"]
    np.testing.assert_allclose(gating[0].margins, np.log([[0.4 / 0.1, 0.5 / 0.1]]))
    assert gating[0].values == {"linear": "0.400", "mlp": "1.600", "conv": "2.000"}  # geometric means, at epoch 2 here
    assert list(found) == ["linear-area", "linear-epochs", "linear-first", "linear-own"]


def test_sooner_to_the_lowest_loss_that_a_rival_ever_has() -> None:
    histories = runs()
    dip = (histories["configuration"] == "mlp") & (histories["epoch"] == 2)
    histories.loc[dip, "train_loss"] = 0.2  # though its last one is 0.4
    found = claims(sooner("linear", "mlp", by="lowest"), histories)
    assert [claim.id for claim in found.values() if claim.gating] == ["linear-lowest"]
    # linear falls from 1.6 to 0.4 to 0.1: to 0.2 it needs 2.5 epochs, mlp 2
    assert found["linear-lowest"].margins.item() == pytest.approx(2 - 2.5)
    assert found["linear-lowest"].sentence == "linear needs fewer epochs than mlp to a training loss of 0.2"
    # and to 0.4, the last one: 2 epochs, mlp 1 + log 16 / log 32
    assert found["linear-epochs"].margins.item() == pytest.approx(1 + math.log(6.4 / 0.4) / math.log(6.4 / 0.2) - 2)
    assert [claim.id for claim in claims(sooner("linear", "mlp"), histories).values() if claim.gating] == [
        "linear-epochs"
    ]


def test_sooner_is_told_of_the_loss_that_is_asked_for() -> None:
    (claim, *_) = claims(sooner("linear", "all", "val_loss")).values()
    assert claim.sentence == "linear needs fewer epochs than every other model to a validation loss of 0.4"
    assert claim.rivals == ("sum", "mlp", "conv")


# Functions, words, and what is refused


def test_a_function_is_a_term_and_needs_all_students_unless_it_says_which() -> None:
    def gap(curves: Curves, costs: Costs) -> list[Claim]:
        """mlp is ahead of linear at the first epoch."""
        lead = curves.curve("mlp", "val_accuracy")[:, 0] - curves.curve("linear", "val_accuracy")[:, 0]
        margins = curves.named({"linear": lead})
        return [curves.claim("gap", "mlp is ahead", "difference", margins, means(margins))]

    row = Finding("early", "mlp starts well", gap, students=("mlp", "linear"))
    assert row.describe({}) == "mlp is ahead of linear at the first epoch"
    assert DESIGN.needs(row)["cosine"] == ("cos_linear", "cos_mlp")
    assert DESIGN.needs(Finding("early", "mlp starts well", gap))["constant"] == STUDENTS
    both = claims([gap, above("mlp", "linear")], recipe="cosine")
    assert list(both) == ["gap", "mlp-linear-accuracy"]
    assert both["gap"].rivals == ("cos_linear",)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda: [], "The finding it claims nothing that counts"),
        (lambda: None, "gap, a term of a finding, fails: TypeError: 'NoneType' object is not iterable"),
        (lambda: 1 / 0, r"gap, a term of a finding, fails: ZeroDivisionError: division by zero \(.*, line \d+\)"),
        (lambda: [3], "gap, a term of a finding, returns int; valid are claims"),
    ],
)
def test_a_function_that_makes_no_claims_is_told_in_a_sentence(returned: Callable[[], Any], sentence: str) -> None:
    def gap(_curves: Curves, _costs: Costs) -> list[Claim]:
        found: list[Claim] = returned()
        return found

    with pytest.raises(UserError, match=sentence):
        claims(gap)


def test_what_is_judged_is_said_in_words() -> None:
    row = Finding("it", "it is so", [better("deep", "shallow"), sooner("linear", "deep", by="area")])
    assert row.describe(GROUPS) == (
        "at the last epoch every deep model's training loss is below every shallow model's; every deep model's accuracy"
        " is above every shallow model's; linear's log training loss is below every deep model's, on average over the"
        " run"
    )
    assert below("mlp", "all").describe(GROUPS) == "mlp's training loss is below every other model's"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: below("mlp", "linear", "loss"), "Unknown metric 'loss'. Did you mean val_loss or train_loss"),
        (lambda: below(any_of("deep"), "linear"), "any_of and best_of name rivals"),
        (lambda: better("mlp"), "needs rivals, or two recipes"),
        (lambda: at_least(2, "mlp", "linear", "val_accuracy"), "at_least 2 times val_accuracy"),
        (lambda: at_least(0, "mlp", "linear"), "a factor above 0"),
        (lambda: no_worse("mlp", "linear", {"train_loss": 0.9}), "valid is a number from 1"),
        (lambda: no_worse("mlp", "linear", {"agreement": -0.1}), "valid is a number from 0"),
        (lambda: monotone("mlp"), "at least two students, got 1"),
        (lambda: correlates("train_loss", "agreement"), "either at_most= or at_least="),
        (lambda: correlates("train_loss", "agreement", at_most=-8), "a number from -1 to 1"),
        (lambda: sooner("mlp", "linear", by="aera"), "Did you mean area"),
        (lambda: sooner("mlp", "linear", "val_accuracy"), "Unknown loss 'val_accuracy'"),
        (lambda: sooner("mlp", best_of("shallow")), "any_of and best_of are not for it"),
        (
            lambda: Finding("it", "", [better("mlp", across=("cosine", "constant")), above("mlp", "sum")]),
            "the same two",
        ),
        (lambda: claims(sooner("mlp", "mlp")), "mlp is compared with nobody but itself"),
        (lambda: Finding("it", "", ["above"]), "'above' among its terms"),
        (lambda: claims([above("mlp", "deep"), above("mlp", "shallow")]), "two clauses called mlp-accuracy"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
