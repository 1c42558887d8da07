"""Recipes and configurations."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kvbench.core.losses import distillation_loss, objective
from kvbench.core.recipe import Recipe, shared_facts
from kvbench.core.run import Run
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from tests.support.trainer import config, fresh, history, random_bank


def test_both_recipes_of_every_student_in_the_order_of_the_tables() -> None:
    names = [f"Model{n}" for n in range(1, 8)]
    assert [row.id for row in STUDY.configurations()] == [*(f"lr_{name}" for name in names), *names]


def test_the_defaults_are_the_sources() -> None:
    scheduled, constant = STUDY.recipes
    assert (constant.epochs, constant.batch_size, constant.lr, constant.weight_decay) == (10, 64, 1e-4, 1e-4)
    assert (scheduled.schedule, scheduled.step_size, scheduled.gamma) == ("step", 2, 0.5)
    own: dict[str, Any] = {"name": "same", "configuration": "{student}", "schedule": "constant"}
    assert replace(scheduled, **own) == replace(constant, **own)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "has epochs 0; valid is a whole number from 1"),
        ({"epochs": 2.5}, "has epochs 2.5; valid is a whole number from 1"),
        ({"batch_size": -1}, "has batch_size -1"),
        ({"lr": -1.0}, "has lr -1.0; valid is a number from 0"),
        ({"lr": float("nan")}, "has lr nan"),
        ({"weight_decay": float("inf")}, "has weight_decay inf; valid is a number from 0"),
        ({"temperature": 0.0}, "has temperature 0.0; valid is a number above 0"),
        ({"schedule": "cosin"}, "Unknown schedule 'cosin'. Did you mean cosine?"),
        ({"loss": "kd"}, "Unknown loss 'kd'."),
        ({"target": "label"}, "Unknown target 'label'. Did you mean labels?"),
        ({"target": "labels"}, "The loss kl compares logits with logits: with target labels, choose cross_entropy."),
        ({"epochs": 10**9}, "has epochs 1000000000; valid is a whole number from 1 to 100,000"),
        ({"batch_size": 10**30}, "valid is a whole number from 1 to 2,147,483,648"),
        ({"lr": "1e-3"}, "has lr '1e-3'; valid is a number from 0"),
        ({"gamma": None}, "has gamma None; valid is a number above 0"),
        ({"optimizer": "../Adam"}, "has optimizer '../Adam'; valid is a class of torch.optim by name, or a callable"),
        ({"name": "two\nlines"}, "A recipe is called 'two\\nlines'; valid is a name of printable characters."),
        ({"configuration": "mine\n{student}"}, "valid is a text with {student} in it"),
        ({"configuration": "mine"}, "valid is a text with {student} in it"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Recipe(**changes)


def test_facts_say_once_what_recipes_share_and_nothing_that_a_schedule_does_not_read() -> None:
    facts = shared_facts({recipe.name: recipe.facts for recipe in STUDY.recipes})
    assert facts["recipe lr"] == 1e-4
    assert facts["recipe schedule (StepLR)"] == "step"
    assert facts["recipe step_size (StepLR)"] == 2
    assert "recipe gamma" not in facts
    assert "recipe step_size (constant lr)" not in facts


LOGITS, TEACHER, LABELS = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([1])


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(), distillation_loss(LOGITS, TEACHER)),
        (Recipe(temperature=2.0), distillation_loss(LOGITS / 2, TEACHER / 2)),
        (Recipe(loss="mse"), ((LOGITS - TEACHER) ** 2).mean()),
        (Recipe(loss="cross_entropy"), -(TEACHER.softmax(1) * LOGITS.log_softmax(1)).sum()),
        (Recipe(loss="cross_entropy", target="labels"), -LOGITS.log_softmax(1)[0, 1]),
        (Recipe(loss="cross_entropy", target="labels", temperature=4.0), -(LOGITS / 4).log_softmax(1)[0, 1]),
        (Recipe(loss=F.l1_loss), (LOGITS - TEACHER).abs().mean()),
    ],
)
def test_each_loss_is_what_it_is_called(recipe: Recipe, expected: Tensor) -> None:
    assert float(objective(recipe, LOGITS, TEACHER, LABELS)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda logits, target: (logits - target).sum(1), "returns a tensor of shape (64,); valid is a scalar tensor"),
        (lambda logits, target: 0.0, "returns float; valid is a scalar tensor"),
        (lambda logits, target: logits @ target, "fails on logits and target of the shapes ((64, 5), (64, 5))"),
    ],
)
def test_a_loss_of_ones_own_that_does_not_fit_is_refused(loss: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        fresh(config(loss=loss)).epoch()


def sgd(groups: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=0.9, weight_decay=weight_decay)


def test_optimisers_are_torchs_by_name_or_ones_own() -> None:
    for optimizer, kind in (("AdamW", torch.optim.AdamW), ("Adagrad", torch.optim.Adagrad), (sgd, torch.optim.SGD)):
        run = fresh(config(optimizer=optimizer, weight_decay=0.0))
        assert type(run.optimizer) is kind
        assert len(history(run)) == 3


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        ("adam", "Unknown optimizer 'adam'. Did you mean Adam"),
        ("lr_scheduler", "Unknown optimizer 'lr_scheduler'."),
        (lambda groups: None, "cannot be made: TypeError"),
        (lambda groups, lr, **_: torch.optim.LBFGS(groups, lr), "The optimizer LBFGS needs a closure in each step"),
        (lambda groups, **_: None, "is NoneType; valid is a torch.optim.Optimizer"),
    ],
)
def test_an_optimiser_that_is_none_is_refused(optimizer: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        fresh(config(optimizer=optimizer))


def test_a_cosine_schedule_ends_at_zero() -> None:
    run = fresh(config(epochs=4, schedule="cosine", lr=0.1))
    used: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    history(run)
    assert used[::3] == pytest.approx([0.1, 0.1 * (1 + 0.5**0.5) / 2, 0.05, 0.1 * (1 - 0.5**0.5) / 2])
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_labels_teach_what_the_teacher_does_not_know() -> None:
    bank = random_bank()
    recipe: dict[str, Any] = {"loss": "cross_entropy", "target": "labels", "epochs": 30, "lr": 0.05}
    run = Run(config(**recipe), bank, bank, 0)
    rows = history(run)
    assert rows[-1]["val_accuracy"] > rows[-1]["agreement"] + 0.1
