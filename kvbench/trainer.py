"""Distillation on feature banks, epoch by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvbench.bank import FeatureBank
from kvbench.errors import UserError
from kvbench.models import student
from kvbench.recipe import Configuration

EVALUATION_BATCH = 1024


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL divergence from the teacher's softmax to the student's in nats, mean over B; both logits (B, K)."""
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

    def __init__(self, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int):
        self.configuration, self.train, self.val, self.seed = configuration, train, val, seed
        recipe = configuration.recipe
        self.device = train.logits.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = student(configuration.student).build(train.widths, train.classes).to(self.device)
        self.order = torch.Generator().manual_seed(seed)
        trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        self.scheduler = (
            torch.optim.lr_scheduler.StepLR(self.optimizer, recipe.step_size, recipe.gamma)
            if recipe.step_size
            else None
        )
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self._latest: tuple[float, float] | None = None  # loss and seconds of an epoch not yet evaluated

    @property
    def done(self) -> bool:
        """Whether every epoch of the recipe has been trained."""
        return self.epochs_done >= self.configuration.recipe.epochs

    def epoch(self) -> None:
        """Train one epoch; after the recipe's last one, do nothing.

        Raises:
            UserError: the loss is no finite number; tells configuration, seed and epoch.
        """
        if self.done:
            return
        synchronize = torch.get_device_module(self.device).synchronize
        synchronize()
        start = time.perf_counter()
        self.module.train()
        losses = []
        rows = torch.randperm(len(self.train), generator=self.order).to(self.device)
        for chosen in torch.split(rows, self.configuration.recipe.batch_size):
            xs, teacher_logits, _ = self.train.batch(chosen)
            loss = distillation_loss(self.module(xs), teacher_logits)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.detach())
        if self.scheduler:
            self.scheduler.step()
        train_loss = float(torch.stack(losses).cpu().double().mean())  # not every accelerator has float64
        synchronize()
        self.epochs_done += 1
        self._latest = train_loss, time.perf_counter() - start
        if not math.isfinite(train_loss):
            raise UserError(
                f"The training loss of {self.configuration.id} (seed {self.seed}) is {train_loss} in epoch"
                f" {self.epochs_done}: try a smaller lr, and look for values that are not finite in the features."
            )

    @torch.inference_mode()
    def evaluate(self) -> None:
        """Append the history row of the epoch just trained; without one, do nothing."""
        if self._latest is None:
            return
        self.module.eval()
        loss, correct, agreeing = 0.0, 0, 0
        for start in range(0, len(self.val), EVALUATION_BATCH):
            xs, teacher_logits, labels = self.val.batch(slice(start, start + EVALUATION_BATCH))
            logits = self.module(xs)
            loss += float(distillation_loss(logits, teacher_logits)) * len(labels)
            top = logits.argmax(1)
            correct += int((top == labels).sum())
            agreeing += int((top == teacher_logits.argmax(1)).sum())
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
    too small to share, and a history then depends on no number of threads. On an accelerator one after another.

    ``tick`` is called after every epoch of every seed with the `Run` that made it. ``twins`` are further runs, trained
    alongside, whose rows are kept apart.
    """

    def __init__(
        self,
        configuration: Configuration,
        train: FeatureBank,
        val: FeatureBank,
        seeds: Sequence[int],
        tick: Callable[[Run], object] = lambda _: None,
        twins: Sequence[Run] = (),
    ):
        self.configuration, self.tick = configuration, tick
        self.device = train.logits.device
        self.runs = [Run(configuration, train, val, seed) for seed in seeds]
        self.twins = list(twins)

    def epoch(self) -> None:
        """Train one epoch of every seed; after the recipe's last one, do nothing."""
        self._each([run for run in (*self.runs, *self.twins) if not run.done], Run.epoch, self.tick)

    def evaluate(self) -> None:
        """Append the history rows of the epoch just trained."""
        self._each([*self.runs, *self.twins], Run.evaluate)

    def _each(
        self, runs: Sequence[Run], act: Callable[[Run], None], told: Callable[[Run], object] = lambda _: None
    ) -> None:
        """Let every run ``act`` once; ``told`` is called with each that did, in their order."""
        threads = torch.get_num_threads()
        workers = threads if self.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for run, _ in zip(runs, pool.map(act, runs), strict=True):
                told(run)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # a worker's call sets what new threads start with, too

    def finish(self) -> None:
        """Train and evaluate whatever epochs are left."""
        self.evaluate()
        while not all(run.done for run in (*self.runs, *self.twins)):
            self.epoch()
            self.evaluate()

    @property
    def history(self) -> list[dict[str, Any]]:
        """All runs' rows, one an epoch, with the history frame's columns."""
        return [row for run in self.runs for row in run.history]

    @property
    def twin_history(self) -> list[dict[str, Any]]:
        """The twins' rows, likewise."""
        return [row for run in self.twins for row in run.history]
