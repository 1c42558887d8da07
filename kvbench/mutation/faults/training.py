"""Faults of loss, optimiser, schedule and batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core import losses
from kvbench.core.run import Run
from kvbench.mutation.faults.fault import ANY, MEMORY, Fault, after_init, patched, patched_for, with_recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def loss(new: Loss) -> Callable[[], AbstractContextManager[object]]:
    """Train and validate with another loss instead of KL."""
    instead = lambda student, teacher, _temperature: new(student, teacher)  # noqa: E731
    return patched_for(lambda recipe: recipe.loss == "kl", "loss kl", losses, "distillation_loss", instead)


def kl(student: Tensor, teacher: Tensor, reduction: str = "batchmean") -> Tensor:
    """`kl_div` of two log probabilities."""
    return F.kl_div(student, teacher, log_target=True, reduction=reduction)


def softmax_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """A student's probabilities where their logarithms belong."""
    return kl(F.softmax(student, 1), F.log_softmax(teacher, 1))


def tempered_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Both sides at a temperature, times its square, as is usual."""
    return kl(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)) * temperature**2


def smoothed_loss(student: Tensor, teacher: Tensor, share: float = 0.1) -> Tensor:
    """A tenth of the target's probability is spread evenly over the classes."""
    target = (1 - share) * F.softmax(teacher, 1) + share / teacher.shape[1]
    return kl(F.log_softmax(student, 1), target.log())


def target_not_log(student: Tensor, teacher: Tensor) -> Tensor:
    """``log_target`` forgotten: the log probabilities are read as probabilities; their logarithm is no number."""
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), log_target=True, reduction="batchmean")


_adam, _chunks = torch.optim.Adam, Run.chunks


def optimiser(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], AbstractContextManager[object]]:
    """Make another optimiser from Adam's arguments."""
    return patched_for(lambda recipe: recipe.optimizer == "Adam", "optimizer Adam", torch.optim, "Adam", make)


def sgd(parameters: Any, lr: float, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """SGD with momentum at Adam's lr."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay, fused=fused)


def adam_with(**changes: Any) -> Callable[[], AbstractContextManager[object]]:
    """Adam with some arguments changed."""
    return optimiser(lambda parameters, lr, **options: _adam(parameters, lr, **{**options, **changes}))


def decayed_weights(parameters: Any, lr: float, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Adam without weight decay of what has one axis: biases."""
    every = [parameter for group in parameters for parameter in group["params"]]
    biases = {"params": [one for one in every if one.ndim == 1], "weight_decay": 0.0}
    groups: list[dict[str, Any]] = [{"params": [one for one in every if one.ndim != 1]}, biases]
    return _adam(groups, lr, weight_decay=weight_decay, fused=fused)


def forgetful(self: Run) -> Iterator[None]:
    """Train an epoch with an optimiser that has seen no step before."""
    self.optimizer.state.clear()
    yield from _chunks(self)


def warmed_up(run: Run) -> None:
    """Let lr rise evenly over the steps of the first epoch."""
    steps = -(-len(run.train) // run.configuration.recipe.batch_size)
    taken = itertools.count(1)

    def warm(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if (step := next(taken)) <= steps:
            for group in optimizer.param_groups:
                group["lr"] = run.configuration.recipe.lr * step / steps

    run.optimizer.register_step_pre_hook(warm)


def per_batch(run: Run) -> None:
    """Step the schedule after every batch as well."""
    scheduler = run.scheduler
    if scheduler:

        def step(*_: object) -> None:
            scheduler.step()

        run.optimizer.register_step_post_hook(step)


def step_early(run: Run) -> None:
    """Step the schedule once before the first epoch."""
    if run.scheduler:
        run.optimizer.step()
        run.scheduler.step()


def clipped(run: Run) -> None:
    """Clip gradients to norm 0.1 before every step."""

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(run.module.parameters(), 0.1)

    run.optimizer.register_step_pre_hook(clip)


def twice(run: Run) -> None:
    """Let gradients add up: they are never set to zero."""
    run.optimizer.zero_grad = lambda *_: None  # type: ignore[method-assign]


def zeroed(self: torch.optim.Optimizer, *_: Any) -> None:
    """Fill gradients with zeros."""
    torch.optim.Optimizer.zero_grad(self, set_to_none=False)


_split = torch.split


def without_last(rows: Tensor, size: int) -> Sequence[Tensor]:
    """All batches but the last."""
    return _split(rows, size)[:-1]


def full_batches(rows: Tensor, size: int) -> Sequence[Tensor]:
    """All full batches."""
    return [batch for batch in _split(rows, size) if len(batch) == size]


def in_order(count: int, **_: Any) -> Tensor:
    """Rows as they stand."""
    return torch.arange(count)


def one_order(count: int, **_: Any) -> Tensor:
    """The same shuffled order at every epoch and seed."""
    return _randperm(count, generator=torch.Generator().manual_seed(0))


_randperm = torch.randperm

TRAINING_FAULTS = [
    Fault("softmax-for-log-softmax", "the student's probabilities stand where their logarithms belong",
          loss(softmax_loss)),
    Fault("kl-reversed", "KL of the student from the teacher", loss(lambda s, t: kl(F.log_softmax(t, 1), F.log_softmax(s, 1)))),  # noqa: E501
    Fault("reduction-mean", "reduction mean: divided by the classes, too",
          loss(lambda s, t: kl(F.log_softmax(s, 1), F.log_softmax(t, 1), "mean"))),
    Fault("reduction-sum", "reduction sum: not divided by the batch",
          loss(lambda s, t: kl(F.log_softmax(s, 1), F.log_softmax(t, 1), "sum"))),
    Fault("target-not-log", "the target's logarithm is not taken", loss(target_not_log)),
    Fault("temperature-2", "both sides at temperature 2", loss(tempered_loss)),
    Fault("smoothed-targets", "a tenth of the targets' probability is spread over all classes", loss(smoothed_loss)),
    Fault("cross-entropy", "cross-entropy with the teacher's first choice",
          loss(lambda s, t: F.cross_entropy(s, t.argmax(1)))),
    Fault("no-weight-decay", "weight decay 0 instead of 1e-4", with_recipe(lambda r: replace(r, weight_decay=0.0))),
    Fault("weight-decay-x10", "weight decay 1e-3", with_recipe(lambda r: replace(r, weight_decay=10 * r.weight_decay))),
    Fault("weight-decay-skips-biases", "weight decay leaves biases alone", optimiser(decayed_weights)),
    Fault("moments-lost", "the optimiser's moments are lost between epochs", patched(Run, "chunks", forgetful)),
    Fault("warm-up", "the learning rate rises over the first epoch", after_init(warmed_up)),
    Fault("sgd", "SGD with momentum instead of Adam", optimiser(sgd)),
    Fault("adamw", "AdamW instead of Adam", optimiser(torch.optim.AdamW)),
    Fault("amsgrad", "Adam with amsgrad", adam_with(amsgrad=True)),
    Fault("beta2-0.99", "Adam's second beta is 0.99", adam_with(betas=(0.9, 0.99))),
    Fault("eps-1e-6", "Adam's eps is 1e-6", adam_with(eps=1e-6)),
    Fault("lr-x0.5", "half the learning rate", with_recipe(lambda r: replace(r, lr=r.lr / 2))),
    Fault("lr-x2", "twice the learning rate", with_recipe(lambda r: replace(r, lr=r.lr * 2))),
    Fault("lr-x3", "three times the learning rate", with_recipe(lambda r: replace(r, lr=r.lr * 3))),
    Fault("lr-x1.05", "5% more learning rate", with_recipe(lambda r: replace(r, lr=r.lr * 1.05))),
    Fault("scheduler-never", "the schedule is never stepped",
          after_init(lambda run: setattr(run, "scheduler", None)), ANY, ANY, scheduled=True),
    Fault("scheduler-per-batch", "the schedule is stepped after every batch, too", after_init(per_batch), ANY, ANY,
          scheduled=True),
    Fault("scheduler-late", "the schedule steps every 3 epochs instead of 2",
          with_recipe(lambda r: replace(r, step_size=3)), ANY, ANY, scheduled=True),
    Fault("scheduler-early", "the schedule is one epoch ahead", after_init(step_early), ANY, ANY,
          scheduled=True),
    Fault("gamma-0.7", "the schedule's gamma is 0.7", with_recipe(lambda r: replace(r, gamma=0.7)), ANY, ANY,
          scheduled=True),
    Fault("shuffling-off", "batches in the order of the files", patched(torch, "randperm", in_order)),
    Fault("one-order", "every epoch and seed has the same order", patched(torch, "randperm", one_order)),
    Fault("batch-32", "batches of 32", with_recipe(lambda r: replace(r, batch_size=32))),
    Fault("last-batch-dropped", "an epoch ends one batch early", patched(torch, "split", without_last)),
    Fault("gradients-clipped", "gradients are clipped to norm 0.1", after_init(clipped), MEMORY),
    Fault("gradients-add-up", "gradients are never set to zero", after_init(twice)),
    Fault("partial-batch-dropped", "a last batch that is not full is dropped", patched(torch, "split", full_batches),
          equivalent="the images are a whole number of batches: nothing is dropped"),
    Fault("zeroed-gradients", "gradients are set to zero instead of None",
          patched(torch.optim.Adam, "zero_grad", zeroed),
          equivalent="the same numbers reach the optimiser"),
]  # fmt: skip
