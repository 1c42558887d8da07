"""Studies: what one is made of, and what cannot be one."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from kvbench.core.recipe import Recipe
from kvbench.core.student import Student
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import below
from kvbench.studies.kv_memory import STUDY
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError

LINEAR = Student("linear", lambda widths, classes: torch.nn.Linear(widths[0], classes))
MLP = replace(LINEAR, name="mlp", group="deep", tags=("GELU", "two layers"))


def test_its_design_has_every_configuration_group_and_tag() -> None:
    study = Study("mine", "Mine", (LINEAR, MLP), (Recipe("A", "a_{student}"), Recipe("B", "{student}_b")))
    design = study.design
    assert design.configurations == {
        "A": {"linear": "a_linear", "mlp": "a_mlp"},
        "B": {"linear": "linear_b", "mlp": "mlp_b"},
    }
    assert design.groups == {"deep": ("mlp",), "GELU": ("mlp",), "two layers": ("mlp",)}
    assert [row.id for row in study.configurations()] == ["a_linear", "a_mlp", "linear_b", "mlp_b"]
    assert study.references == "mine"


def test_a_student_is_in_a_group_once_whatever_its_tags_say() -> None:
    twice = replace(MLP, tags=("deep", "GELU", "GELU"))
    assert Study("mine", "Mine", (LINEAR, twice)).design.groups == {"deep": ("mlp",), "GELU": ("mlp",)}


def test_the_sources_page_reads_as_the_source() -> None:
    groups = STUDY.design.groups
    assert groups["simple"] == ("Model1", "Model2")
    assert groups["memory"] == ("Model3", "Model4", "Model5", "Model6", "Model7")
    assert groups["GELU"] == ("Model3", "Model4", "Model7")
    assert groups["frozen memories"] == ("Model4", "Model6")
    assert [student.taps for student in STUDY.students[:3]] == [(-1,), (-2, -1), (-3, -2, -1)]
    assert STUDY.references == ""


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        STUDY.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"students": ()}, "The study mine has no students; valid is one or more."),
        ({"recipes": ()}, "The study mine has no recipes"),
        ({"students": (LINEAR, LINEAR)}, "The study mine has two students called linear: give one another name."),
        ({"recipes": (Recipe(), Recipe(lr=1))}, "The study mine has two recipes called constant lr"),
        ({"recipes": (Recipe("A"), Recipe("B"))}, "In the study mine, linear is the name of two configurations"),
        ({"recipes": (Recipe("A"), Recipe("B", "m{student}")), "students": (replace(LINEAR, name="lp"), MLP)},
         "In the study mine, mlp is the name of two configurations"),
        ({"name": "../mine"}, "The name of a study is '../mine'; valid is a name that can be a folder's"),
        ({"students": (Student("linear"),)}, "The student linear needs one of make and make_from."),
        ({"name": ""}, "The name of a study is ''"),
        ({"students": LINEAR}, "The study mine has students that are no tuple of them; valid is (Student(...),)."),
        ({"students": ("linear",)}, "The study mine has students that are no tuple of them"),
        ({"recipes": Recipe()}, "The study mine has recipes that are no tuple of them; valid is (Recipe(...),)."),
        ({"findings": Finding("f", "said", below("linear", "mlp"))}, "has findings that are no tuple of them"),
        ({"students": (replace(LINEAR, name="all"),)}, "has a student called all, which means every student."),
        ({"folder": "../mine"}, "The folder of the references of mine is '../mine'; valid is a name"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Study(**{"name": "mine", "title": "Mine", "students": (LINEAR,), **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": " "}, "A student is called ' '; valid is a name of printable characters."),
        ({"name": "a\nb"}, "valid is a name of printable characters"),
        ({"make_from": lambda bank: None}, "The student linear has make and make_from: give it one of them."),
        ({"taps": ()}, "The student linear reads the taps (); valid are indices, such as (-2, -1)."),
        ({"taps": ("layer4",)}, "The student linear reads the taps ('layer4',); valid are indices"),
        ({"taps": -1}, "The student linear reads the taps -1; valid are indices"),
        ({"tags": "GELU"}, "The student linear has the tags 'GELU'; valid is a tuple"),
        ({"name": 3}, "A student is called 3; valid is a name of printable characters."),
    ],
)
def test_what_is_no_student_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        replace(LINEAR, **changes)
