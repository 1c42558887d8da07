"""Distillation on feature banks, epoch by epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvbench.core.bank import FeatureBank
from kvbench.core.contract import attributes, check_student, materialize
from kvbench.core.interleave import interleave
from kvbench.core.models import student
from kvbench.core.numerics import RandomState, default_numerics, random_state_kept, seed_everything
from kvbench.core.recipe import EVALUATION_BATCH, Configuration
from kvbench.core.timer import Clock
from kvbench.utils.errors import UserError
from kvbench.utils.oom import enough_memory

UNREPEATABLE = "draws random numbers in some of its steps: its numbers do not repeat"
LOG = logging.getLogger("kvbench")
PORTION = 32  # batches of a seed before another's turn: seeds that are no multiple of the threads share them evenly
MORE_MEMORY = "Train fewer seeds (--kvbench-seeds), smaller batches, or on another device (--kvbench-device)."
PORTION_SECONDS = 0.25  # at most about: whoever interrupts a training waits for its threads to pause


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL divergence from the teacher's softmax to the student's in nats, mean over B; both logits (B, K).

    Example:
        >>> distillation_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor(0.)
    """
    return F.kl_div(
        F.log_softmax(student_logits, 1), F.log_softmax(teacher_logits, 1), log_target=True, reduction="batchmean"
    )


class Run:
    """One configuration trained with one seed on one pair of banks.

    The seed fixes initialisation and batch order; both are drawn on the CPU, so they are the same on every device.

    Args:
        configuration: student and recipe.
        train, val: banks on the device to train on.
        seed: any integer.
    """

    @default_numerics()
    def __init__(self, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int):
        self.configuration, self.train, self.val, self.seed = configuration, train, val, seed
        recipe = configuration.recipe
        self.device = train.logits.device
        with random_state_kept(self.device):
            seed_everything(seed, self.device)
            module = student(configuration.student).build(train.widths, train.classes)
            if self.device.type != "meta":
                materialize(configuration.student, module, train)
            self.module = module.to(self.device)
            self.random_state = RandomState(self.device)  # what the student's own draws begin with
        self.attributes = attributes(self.module)  # as they are before training
        self.draws = True  # whether it may draw random numbers while it is trained
        self.order = torch.Generator().manual_seed(seed)
        # A group, since a student need not have trainable parameters.
        trained = [{"params": [p for p in self.module.parameters() if p.requires_grad]}]
        self.optimizer = torch.optim.Adam(trained, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        self.scheduler = (
            torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.step_size, recipe.gamma)
            if recipe.step_size
            else None
        )
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.diverged = False
        self._latest: tuple[float, float] | None = None  # loss and seconds of an epoch not yet evaluated

    @property
    def done(self) -> bool:
        """Whether every epoch of the recipe has been trained."""
        return self.epochs_done >= self.configuration.recipe.epochs

    @default_numerics()
    def epoch(self) -> None:
        """Train one epoch; after the recipe's last one, do nothing."""
        for _ in self.portions():
            pass

    def portions(self) -> Iterator[None]:
        """Train one epoch, pausing often; after the recipe's last one, do nothing.

        Raises:
            UserError: the loss is no finite number; tells configuration, seed, epoch and step.
        """
        if self.done:
            return
        synchronize = torch.get_device_module(self.device).synchronize
        self.module.train()
        rows = torch.randperm(len(self.train), generator=self.order).to(self.device)
        chosen = torch.split(rows, self.configuration.recipe.batch_size)
        losses: list[Tensor] = []
        seconds = 0.0
        while len(losses) < len(chosen):
            synchronize()
            start = time.perf_counter()
            with self._own_random_numbers():
                for batch in chosen[len(losses) : len(losses) + PORTION]:
                    losses.append(self.step(batch))
                    if time.perf_counter() - start > PORTION_SECONDS:
                        break
                synchronize()
            seconds += time.perf_counter() - start
            yield
        if self.scheduler:
            self.scheduler.step()
        steps = torch.stack(losses).cpu().double()  # not every accelerator has float64
        self.epochs_done += 1
        odd = (~steps.isfinite()).nonzero()
        if len(odd):
            self.diverged = True
            step = int(odd[0])
            raise UserError(
                f"The training loss of {self.configuration.id} (seed {self.seed}) is {float(steps[step])} in epoch"
                f" {self.epochs_done}, step {step + 1}: try a smaller lr, and look for values that are not finite in"
                " the features."
            )
        self._latest = float(steps.mean()), seconds

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
        xs, teacher_logits, _ = self.train.batch(rows)
        loss = distillation_loss(self.module(xs), teacher_logits)
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
        if self._latest is None:
            return
        self.module.eval()
        loss, correct, agreeing = 0.0, 0, 0
        for start in range(0, len(self.val), EVALUATION_BATCH):
            with torch.inference_mode(), self._own_random_numbers():
                xs, teacher_logits, labels = self.val.batch(slice(start, start + EVALUATION_BATCH))
                logits = self.module(xs)
                loss += float(distillation_loss(logits, teacher_logits)) * len(labels)
                top = logits.argmax(1)
                correct += int((top == labels).sum())
                agreeing += int((top == teacher_logits.argmax(1)).sum())
            yield
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


class Training:
    """A configuration trained with several seeds, all of them by one epoch at each call of `epoch`.

    On the CPU as many seeds as torch has threads are trained side by side, each on one thread: a step's matrices are
    too small to share, and a history then depends on no number of threads. On an accelerator one portion at a time.

    ``tick`` is called after every epoch of every seed with the `Run` that made it. ``replicates`` are further runs,
    trained alongside, whose rows are kept apart. ``clock`` is what seconds of whole epochs are read from.

    Runs may have been restored, each at an epoch of its own: `epoch` then trains those that are behind, and sets the
    clock to what the epoch took when all were trained.

    Example:
        >>> taps = torch.rand(64, 256), torch.rand(64, 512), torch.rand(64, 512)
        >>> bank = FeatureBank(taps, torch.rand(64, 10), torch.randint(10, (64,)))
        >>> training = Training(Configuration("Model1", Recipe(epochs=2)), bank, bank, seeds=[0, 1])
        >>> training.finish()
        >>> [(row["seed"], row["epoch"]) for row in training.history]
        [(0, 1), (0, 2), (1, 1), (1, 2)]
    """

    def __init__(
        self,
        configuration: Configuration,
        train: FeatureBank,
        val: FeatureBank,
        seeds: Sequence[int],
        tick: Callable[[Run], object] = lambda _: None,
        replicates: Sequence[Run] = (),
        clock: Clock | None = None,
    ):
        self.configuration, self.tick, self.clock = configuration, tick, clock or Clock()
        self.device = train.logits.device
        self.runs = [Run(configuration, train, val, seed) for seed in seeds]
        self.replicates = list(replicates)
        self.notes = self._check(train, val, seeds) if self.runs else []  # what a reader of the numbers should know
        self.keep: Callable[[Run], object] = lambda _: None  # called with each run that has a new row, in its thread
        self.epochs_asked = 0
        self.epoch_seconds: list[float] = []  # of each epoch of all runs side by side, on the clock
        self.reused = [0 for _ in self.runs]  # epochs of each seed that an earlier session trained

    def _check(self, train: FeatureBank, val: FeatureBank, seeds: Sequence[int]) -> list[str]:
        notes = check_student(Run(self.configuration, train, val, seeds[0]), self.runs[0])
        for run in self.everyone:
            run.draws = self.runs[0].draws
        for note in notes:
            LOG.warning("%s", note)
        return notes

    @property
    def everyone(self) -> list[Run]:
        """All runs, replicates last."""
        return [*self.runs, *self.replicates]

    def epoch(self) -> None:
        """Train one epoch of every seed; after the recipe's last one, do nothing."""
        if self.epochs_asked >= self.configuration.recipe.epochs:
            return
        self.epochs_asked += 1
        start = self.clock()
        self._each([run for run in self.everyone if run.epochs_done < self.epochs_asked], Run.portions, self.tick)
        seconds = self.clock() - start
        if self.epochs_asked <= len(self.epoch_seconds):  # an earlier session trained it
            self.clock.ahead += self.epoch_seconds[self.epochs_asked - 1] - seconds
        else:
            self.epoch_seconds.append(seconds)

    def evaluate(self) -> None:
        """Append the history rows of the epoch just trained."""

        def settle(run: Run) -> Iterator[None]:
            before = len(run.history)
            yield from run.evaluation()
            if len(run.history) > before:
                self.keep(run)

        self._each(self.everyone, settle)

    def _each(
        self,
        runs: Sequence[Run],
        act: Callable[[Run], Iterator[None]],
        told: Callable[[Run], object] = lambda _: None,
    ) -> None:
        """Let every run ``act`` to its end, side by side; ``told`` is called with each that has."""
        draws = any(run.draws for run in runs)
        # Global generators are for one seed at a time.
        workers = torch.get_num_threads() if self.device.type == "cpu" and not draws else 1
        before = RandomState(self.device)
        with enough_memory(f"{self.configuration.id} with {len(runs)} seeds", MORE_MEMORY), default_numerics():
            interleave([act(run) for run in runs], workers, lambda place: told(runs[place]))
        if RandomState(self.device) != before and not draws and UNREPEATABLE not in "; ".join(self.notes):
            self.notes.append(f"{self.configuration.student} {UNREPEATABLE}")
            LOG.warning("%s", self.notes[-1])

    def finish(self) -> None:
        """Train and evaluate whatever epochs are left."""
        self.evaluate()
        while self.epochs_asked < self.configuration.recipe.epochs:
            self.epoch()
            self.evaluate()

    @property
    def history(self) -> list[dict[str, Any]]:
        """All runs' rows, one an epoch, with the history frame's columns."""
        return [row for run in self.runs for row in run.history]

    @property
    def replicate_history(self) -> list[dict[str, Any]]:
        """The replicates' rows, likewise."""
        return [row for run in self.replicates for row in run.history]
