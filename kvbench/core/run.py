"""One configuration trained with one seed, epoch by epoch."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kvbench.core.bank import FeatureBank
from kvbench.core.losses import objective
from kvbench.core.module import attributes, materialize
from kvbench.core.numerics import RandomState, default_numerics, random_state_kept, seed_everything
from kvbench.core.recipe import EVALUATION_BATCH, Configuration, Recipe
from kvbench.utils.errors import UserError, describe, unknown

FUSED = ("Adam", "AdamW", "SGD")  # of torch.optim, the classes that have a fused step on every device
CHUNK = 32  # batches of a seed before another's turn: seeds that are no multiple of the threads share them evenly
CHUNK_SECONDS = 0.25  # at most about: whoever interrupts a training waits for its threads to pause


def make_optimizer(recipe: Recipe, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimiser of a recipe; raises `UserError` where torch has none of the name, or the user's own fails."""
    groups = [{"params": list(parameters)}]  # a group, since a student need not have trainable parameters
    make = recipe.optimizer
    if isinstance(make, str):
        if make not in torch.optim.__all__ or not callable(getattr(torch.optim, make)):
            valid = {name for name in torch.optim.__all__ if name[0].isupper()} - {"Optimizer", "LBFGS"}
            raise unknown("optimizer", make, sorted(valid))
        make = getattr(torch.optim, make)
    fused = {"fused": True} if recipe.optimizer in FUSED else {}
    try:
        optimizer = make(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, **fused)
    except Exception as error:
        raise UserError(f"The optimizer {recipe.facts['optimizer']} cannot be made: {describe(error)}.") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"The optimizer of the recipe {recipe.name} is {type(optimizer).__name__}; valid is a"
                        " torch.optim.Optimizer.")  # fmt: skip
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(f"The optimizer {type(optimizer).__name__} needs a closure in each step, which it is not given:"
                        " choose another.")  # fmt: skip
    return optimizer


def make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
    """The schedule of a recipe, stepped once an epoch; None: lr stays."""
    if recipe.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    return None


def in_chunks(
    step: Callable[[Tensor], Tensor],
    batches: Sequence[Tensor],
    device: torch.device,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generator[None, None, tuple[Tensor, float]]:
    """Step on batch after batch, pausing often; ``around`` makes a block for each chunk.

    Returns what the steps returned, stacked, and the seconds without the pauses.
    """
    synchronize = torch.get_device_module(device).synchronize
    losses: list[Tensor] = []
    seconds = 0.0
    while len(losses) < len(batches):
        synchronize()
        start = time.perf_counter()
        with around():
            for batch in batches[len(losses) : len(losses) + CHUNK]:
                losses.append(step(batch))
                if time.perf_counter() - start > CHUNK_SECONDS:
                    break
            synchronize()
        seconds += time.perf_counter() - start
        yield
    return torch.stack(losses), seconds


class Run:
    """One configuration trained with one seed on one pair of banks.

    The seed fixes initialisation and batch order; both are drawn on the CPU, so they are the same on every device. A
    student that draws random numbers while it is trained draws them from states of the global generators that are this
    run's own.

    Args:
        configuration: student and recipe.
        train, val: banks on the device to train on.
        seed: any integer.

    Attributes:
        history: a row for each evaluated epoch, with the history frame's columns.
        epochs_done: how many epochs are trained.
        diverged: whether the training ended in a loss that is no finite number.

    Raises:
        UserError: the student cannot be made; names it.

    Example:
        >>> run = Run(Configuration(linear, Recipe(epochs=2)), train, val, seed=0)
        >>> run.epoch()
        >>> run.evaluate()
        >>> run.history[0]["train_loss"]
        0.8231
    """

    @default_numerics()
    def __init__(self, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int):
        self.configuration, self.seed = configuration, seed
        student, recipe = configuration.student, configuration.recipe
        student.need_taps(len(train.taps))
        self.banks = train, val
        self.train, self.val = train.select(student.taps), val.select(student.taps)
        self.device = train.logits.device
        with random_state_kept(self.device):
            seed_everything(seed, self.device)
            module = student.build(self.train.widths, train.classes, self.train)
            if self.device.type != "meta":
                materialize(student.name, module, self.train)
            self.module = module.to(self.device)
            self.random_state = RandomState(self.device)  # what the student's own draws begin with
        self.attributes = attributes(self.module)  # as they are before training
        self.draws = True  # whether it may draw random numbers while it is trained
        self.order = torch.Generator().manual_seed(seed)
        self.optimizer = make_optimizer(recipe, [p for p in self.module.parameters() if p.requires_grad])
        self.scheduler = make_scheduler(recipe, self.optimizer)
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.diverged = False
        self._latest: tuple[float, float] | None = None  # loss and seconds of an epoch not yet evaluated

    @property
    def runs(self) -> Sequence[Run]:
        """Itself, alone: a `kvbench.core.stacked.Stack` is used likewise, and has several."""
        return (self,)

    @property
    def done(self) -> bool:
        """Whether every epoch of the recipe has been trained."""
        return self.epochs_done >= self.configuration.recipe.epochs

    @property
    def trained(self) -> bool:
        """Whether an epoch is trained that has no row in the history yet."""
        return self._latest is not None

    @default_numerics()
    def epoch(self) -> None:
        """Train one epoch; after the recipe's last one, do nothing."""
        for _ in self.chunks():
            pass

    def chunks(self) -> Iterator[None]:
        """Train one epoch, pausing often; after the recipe's last one, do nothing.

        Raises:
            UserError: the loss is no finite number; names configuration, seed, epoch and step.
        """
        if self.done:
            return
        self.module.train()
        rows = torch.randperm(len(self.train), generator=self.order).to(self.device)
        batches = torch.split(rows, self.configuration.recipe.batch_size)
        losses, seconds = yield from in_chunks(self.step, batches, self.device, self._own_random_numbers)
        if problem := self.end_epoch(losses, seconds):
            raise UserError(problem)

    def end_epoch(self, losses: Tensor, seconds: float) -> str:
        """Count an epoch whose steps had these losses and took so many seconds; returns what is wrong, else nothing."""
        if self.scheduler:
            self.scheduler.step()
        steps = losses.cpu().double()  # not every accelerator has float64
        self.epochs_done += 1
        invalid = (~steps.isfinite()).nonzero()
        if len(invalid):
            self.diverged = True
            step = int(invalid[0])
            return (
                f"The training loss of {self.configuration.id} (seed {self.seed}) is {float(steps[step])} in epoch"
                f" {self.epochs_done}, step {step + 1}: try a smaller lr, and look for values that are not finite in"
                " the features."
            )
        self._latest = float(steps.mean()), seconds
        return ""

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """A block in which the global generators go on where this run left them, whoever drew from them since."""
        if not self.draws:
            yield
            return
        with random_state_kept(self.device):
            self.random_state.restore()
            yield
            self.random_state = RandomState(self.device)

    def step(self, rows: Tensor) -> Tensor:
        """Train on one batch of rows (B,); returns its loss, a scalar on the device."""
        xs, teacher_logits, labels = self.train.batch(rows)
        loss = objective(self.configuration.recipe, self.module(xs), teacher_logits, labels)
        self.optimizer.zero_grad()
        if loss.requires_grad:  # else nothing of the student is trained
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    @default_numerics()
    def evaluate(self) -> None:
        """Append the history row of the epoch just trained; without one, do nothing."""
        for _ in self.evaluation():
            pass

    def evaluation(self) -> Iterator[None]:
        """Append the history row of the epoch just trained, pausing after every batch; without one, do nothing."""
        if not self.trained:
            return
        self.module.eval()
        loss, correct, agreeing = 0.0, 0, 0
        for start in range(0, len(self.val), EVALUATION_BATCH):
            with torch.inference_mode(), self._own_random_numbers():
                xs, teacher_logits, labels = self.val.batch(slice(start, start + EVALUATION_BATCH))
                logits = self.module(xs)
                loss += float(objective(self.configuration.recipe, logits, teacher_logits, labels)) * len(labels)
                top = logits.argmax(1)
                correct += int((top == labels).sum())
                agreeing += int((top == teacher_logits.argmax(1)).sum())
            yield
        self.end_evaluation(loss, correct, agreeing)

    def end_evaluation(self, loss: float, correct: int, agreeing: int) -> None:
        """Append a history row, from sums over the validation bank."""
        assert self._latest is not None, "an epoch is trained"
        train_loss, seconds = self._latest
        self._latest = None
        n = len(self.val)
        self.history.append(
            {
                "configuration": self.configuration.id,
                "seed": self.seed,
                "epoch": self.epochs_done,
                "train_loss": train_loss,
                "val_loss": loss / n,
                "val_accuracy": correct / n,
                "agreement": agreeing / n,
                "seconds": seconds,
            }
        )
