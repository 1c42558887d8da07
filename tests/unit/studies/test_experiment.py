"""Experiments: a study on a workload, with fields chosen as text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from kvbench.core.recipe import Recipe, TeacherRecipe
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import below, sooner
from kvbench.studies.experiment import Experiment, choosable, read_choices
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS, Workload

FRACTALS = WORKLOADS["fractals"]


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (below("Model1", "Model1"), "Model1 is compared with nobody but itself."),
        (sooner("Model1", "Model1"), "Model1 is compared with nobody but itself."),
        ([below("Model1", "Model2")] * 2, "The finding f has two clauses called Model1-Model2-loss"),
        (below((), "Model1"), "The finding f claims nothing that counts: name students in its terms."),
    ],
)
def test_a_finding_that_no_run_could_judge_is_refused_before_anything_is_trained(terms: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Experiment(replace(STUDY, findings=(Finding("f", "said", terms),)), FRACTALS)


def chosen(text: str) -> Experiment:
    return Experiment(STUDY, FRACTALS, read_choices(text, Recipe, Workload))


def test_the_studys_own_fields_are_those_of_the_workload() -> None:
    plain = chosen("")
    assert plain.name == "fractals"
    assert [recipe.lr for recipe in plain.recipes] == [2.75e-3, 2.75e-3]
    assert [recipe.schedule for recipe in plain.recipes] == ["step", "constant"]
    assert plain.images == FRACTALS
    assert Experiment(STUDY, WORKLOADS["imagenet"]).recipes == STUDY.recipes


def test_choices_change_recipes_and_workload_and_name_a_reference_of_their_own() -> None:
    row = chosen("lr=3e-3 epochs=5 size=32 train_count=2000 temperature=2")
    assert {(r.lr, r.epochs, r.temperature) for r in row.recipes} == {(3e-3, 5, 2.0)}
    assert (row.images.size, row.images.train_count) == (32, 2000)
    assert row.name == "fractals+epochs=5+lr=0.003+size=32+temperature=2+train_count=2000"
    assert row.described == "epochs=5 lr=0.003 size=32 temperature=2 train_count=2000"
    assert row.facts["recipe lr"] == 3e-3
    assert [one.id for one in row.configurations] == [one.id for one in STUDY.configurations()]


def test_the_order_of_choices_and_what_changes_nothing_have_no_part_in_the_name() -> None:
    assert chosen("epochs=5 lr=3e-3").name == chosen("lr=0.003 epochs=5").name
    assert chosen(f"lr=2.75e-3 train_count={FRACTALS.train_count} epochs=10").name == "fractals"
    assert chosen("lr=0.00123456789").name != chosen("lr=0.00123456788").name
    assert chosen("train_count=none").name == "fractals+train_count=none"


def test_a_name_that_would_be_too_long_for_a_folder_is_a_digest() -> None:
    row = chosen("lr=3.14159e-3 epochs=5 size=32 train_count=2000 temperature=2 weight_decay=0.05 batch_size=32")
    assert re.fullmatch(r"fractals\+[0-9a-f]{16}", row.name)
    assert (
        row.name
        != chosen("lr=3e-3 epochs=5 size=32 train_count=2000 temperature=2 weight_decay=0.05 batch_size=32").name
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr", "Cannot read the choice 'lr': valid is NAME=VALUE, such as lr=3e-3 epochs=5"),
        ("benchmarks/", "folders and files stand before the choices"),
        ("lr=", "Cannot read the choice 'lr='"),
        ("epoch=5", "Unknown field 'epoch'. Did you mean epochs?"),
        ("lr=fast", "Cannot read lr=fast: valid is a number."),
        ("epochs=2.5", "Cannot read epochs=2.5: valid is a whole number."),
        ("train_count=many", "Cannot read train_count=many: valid is a whole number or none."),
        ("lr=1 lr=2", "lr is chosen twice: choose one value."),
        ("name=mine", "Unknown field 'name'."),
        ("lr=nan", "has lr nan; valid is a number from 0"),
        ("epochs=0", "has epochs 0; valid is a whole number from 1"),
        ("size=0", "Images of 0 pixels a side: valid is a number from 1 to 4096"),
        ("train_count=0", "fractals has train_count 0: valid is a number from 1, or none for all images."),
        ("schedule=cosin", "Unknown schedule 'cosin'. Did you mean cosine?"),
        ("schedule=cosine", "With schedule=cosine two recipes of kv-memory are the same"),
        ("target=labels", "with target labels, choose cross_entropy"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_what_can(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        chosen(text)


def test_recipes_with_losses_of_ones_own_differ_though_both_are_lambdas() -> None:
    losses = (lambda logits, target: (logits - target).abs().mean(), lambda logits, target: (logits - target).mean())
    recipes = tuple(Recipe(str(n), f"{n}_{{student}}", loss=loss) for n, loss in enumerate(losses))
    assert len(Experiment(replace(STUDY, recipes=recipes, findings=()), FRACTALS).recipes) == 2
    same = tuple(Recipe(str(n), f"{n}_{{student}}", loss=losses[0]) for n in range(2))
    with pytest.raises(UserError, match="two recipes of kv-memory are the same"):
        Experiment(replace(STUDY, recipes=same, findings=()), FRACTALS)


def test_a_study_that_names_no_field_is_refused() -> None:
    wrong = replace(STUDY, workloads={"fractals": {"learning_rate": 1.0}})
    with pytest.raises(UserError, match="Unknown field 'learning_rate'"):
        Experiment(wrong, FRACTALS)


@pytest.mark.parametrize(
    ("text", "row", "value"),
    [
        ("augment=true", TeacherRecipe, True),
        ("augment=FALSE", TeacherRecipe, False),
        ("count=none", TeacherRecipe, None),
        ("momentum=1", TeacherRecipe, 1.0),
        ("optimizer=SGD", Recipe, "SGD"),
    ],
)
def test_values_have_the_types_of_their_fields(text: str, row: type, value: Any) -> None:
    (found,) = read_choices(text, row).values()
    assert found == value
    assert type(found) is type(value)


def test_every_number_of_recipe_and_workload_can_be_chosen() -> None:
    assert set(choosable(Recipe, Workload)) == {
        *("epochs", "batch_size", "lr", "weight_decay", "optimizer", "schedule", "step_size", "gamma", "loss"),
        *("temperature", "target", "size", "train_count", "val_count"),
    }
