"""What findings range over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import above, better
from kvbench.utils.errors import UserError

ROW = Finding("deep-wins", "deeper is better", above("deep", "linear"))
DESIGN = Design(
    "mine",
    {
        "cosine": {"linear": "cos_linear", "mlp": "cos_mlp", "conv": "cos_conv"},
        "constant": {"linear": "linear", "mlp": "mlp"},
    },
    {"deep": ("mlp", "conv")},
    {ROW.id: ROW},
)


def test_a_recipe_that_lacks_a_student_judges_no_finding_about_it() -> None:
    assert DESIGN.needs(ROW) == {"cosine": ("cos_linear", "cos_mlp", "cos_conv")}
    assert DESIGN.needs(Finding("it", "", above("mlp", "linear"))) == {
        "cosine": ("cos_linear", "cos_mlp"),
        "constant": ("linear", "mlp"),
    }
    assert DESIGN.needs(Finding("it", "", above("mlp", "linear"), recipes=("constant",))) == {
        "constant": ("linear", "mlp")
    }


def test_recipes_that_are_compared_are_needed_both() -> None:
    row = Finding("it", "", better("mlp", across=("constant", "cosine")))
    assert DESIGN.needs(row) == {"constant against cosine": ("mlp", "cos_mlp")}


def test_configurations_are_sorted_into_recipes_and_strangers_stand_last() -> None:
    assert DESIGN.blocks(["new", "mlp", "cos_mlp", "linear"]) == {
        "cosine": {"mlp": "cos_mlp"},
        "constant": {"linear": "linear", "mlp": "mlp"},
        "": {"new": "new"},
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"configurations": {"a": {"linear": "x"}, "b": {"linear": "x"}}, "groups": {}}, "two configurations called x"),
        ({"groups": {"mlp": ("linear",)}}, "a group called mlp, which means something else"),
        ({"groups": {"all": ("linear",)}}, "a group called all, which means something else"),
        ({"groups": {"deep": ("mpl",)}}, "The group deep: Unknown student 'mpl'. Did you mean mlp"),
        ({"groups": {}}, "Unknown student or group in the finding deep-wins 'deep'"),
        (
            {"findings": {"it": Finding("it", "", above("mlp", "linear"), recipes=("cosin",))}},
            "recipe in .* Did you mean cosine",
        ),
    ],
)
def test_names_that_mean_nothing_or_two_things_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(DESIGN, **{"findings": {}, **changes} if "configurations" in changes else changes)
