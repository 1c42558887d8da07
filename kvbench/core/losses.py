"""Losses: what a student is trained to make small."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kvbench.core.recipe import Recipe
from kvbench.utils.errors import UserError, describe
from kvbench.utils.oom import out_of_memory


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the student's softmax from the teacher's.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: both are divided by it.

    Returns:
        A scalar in nats, the mean over B.

    Raises:
        UserError: the shapes differ; torch would repeat the smaller ones.

    Example:
        >>> distillation_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = tuple(student_logits.shape), tuple(teacher_logits.shape)
        raise UserError(f"The student's logits have the shape {shapes[0]}, the teacher's {shapes[1]}: both are (B, K).")
    if temperature != 1:
        student_logits, teacher_logits = student_logits / temperature, teacher_logits / temperature
    return F.kl_div(
        F.log_softmax(student_logits, 1), F.log_softmax(teacher_logits, 1), log_target=True, reduction="batchmean"
    )


def objective(recipe: Recipe, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a recipe.

    Args:
        recipe: its ``loss``, ``target`` and ``temperature`` count.
        logits: (B, K), the student's.
        teacher_logits: (B, K).
        labels: (B,).

    Returns:
        A scalar, the mean over B.

    Raises:
        UserError: a loss of the user's own fails or returns something else.
    """
    target = teacher_logits if recipe.target == "teacher" else labels
    if callable(recipe.loss):
        return _own_loss(recipe.loss, logits, target)
    if recipe.loss == "kl":
        return distillation_loss(logits, target, recipe.temperature)
    if recipe.loss == "mse":
        return F.mse_loss(logits, target)
    soft = F.softmax(target / recipe.temperature, 1) if recipe.target == "teacher" else target
    return F.cross_entropy(logits / recipe.temperature, soft)


def objectives(recipe: Recipe, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a recipe for each of S students, as `objective` gives it for one; none of the user's own.

    Args:
        recipe: its ``loss``, ``target`` and ``temperature`` count.
        logits: (S, B, K), the students'.
        teacher_logits: (S, B, K).
        labels: (S, B).

    Returns:
        (S,), the means over B.
    """
    seeds = len(logits)
    logits, teacher_logits, labels = logits.flatten(0, 1), teacher_logits.flatten(0, 1), labels.flatten()
    if recipe.loss == "mse":
        rows = F.mse_loss(logits, teacher_logits, reduction="none").mean(1)
    elif recipe.loss == "kl":
        logits, teacher_logits = logits / recipe.temperature, teacher_logits / recipe.temperature
        student, teacher = F.log_softmax(logits, 1), F.log_softmax(teacher_logits, 1)
        rows = F.kl_div(student, teacher, log_target=True, reduction="none").sum(1)
    else:
        soft = F.softmax(teacher_logits / recipe.temperature, 1) if recipe.target == "teacher" else labels
        rows = F.cross_entropy(logits / recipe.temperature, soft, reduction="none")
    return rows.view(seeds, -1).mean(1)


def _own_loss(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    name, shapes = getattr(loss, "__qualname__", type(loss).__name__), (tuple(logits.shape), tuple(target.shape))
    try:
        found = loss(logits, target)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"The loss {name} fails on logits and target of the shapes {shapes}: {describe(error)}."
        ) from error
    if not isinstance(found, Tensor) or found.shape != ():
        kind = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"The loss {name} returns {kind}; valid is a scalar tensor, the mean over the batch.")
    return found
