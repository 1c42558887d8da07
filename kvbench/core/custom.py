"""Custom training loops: an ablation without a teacher, whose rows a function of the user's yields."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from kvbench.core.numerics import RandomState, random_state_kept, seed_everything
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.utils.errors import UserError, describe, raised_at, unknown
from kvbench.utils.oom import out_of_memory

METRICS = ("train_loss", "val_loss", "val_accuracy", "agreement", "seconds")
TrainFunction = Callable[[Configuration, int, torch.device], Iterable[Mapping[str, Any]]]


class CustomRun(Run):
    """One configuration trained with one seed by a function of the user's.

    Python's, numpy's and torch's global generators begin with the seed, and go on between rows where the function left
    them. An interrupted run starts over, since nobody knows the function's state.

    Args:
        configuration: student and recipe, whose ``epochs`` say how many rows there are.
        function: yields a row for each epoch, with ``train_loss`` and any other of `METRICS`.
        seed: any integer.
        device: where to train.
    """

    def __init__(self, configuration: Configuration, function: TrainFunction, seed: int, device: torch.device):
        self.configuration, self.function, self.seed, self.device = configuration, function, seed, device
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.diverged = False
        self.draws = True
        self._rows: Iterator[Mapping[str, Any]] | None = None
        self._row: dict[str, Any] | None = None  # of an epoch not yet in the history
        with random_state_kept(device):
            seed_everything(seed, device)
            self.random_state = RandomState(device)

    def chunks(self) -> Iterator[None]:
        """Train one epoch; after the recipe's last one, do nothing.

        Raises:
            UserError: the function fails, ends early, or yields something else than a row; names it and the place.
        """
        if self.done:
            return
        start = time.perf_counter()
        with self._own_random_numbers():
            row = self._next()
        self.epochs_done += 1
        self._row = {"seconds": time.perf_counter() - start, **row}
        loss = self._row["train_loss"]
        if not math.isfinite(loss):
            self.diverged = True
            raise UserError(f"The training loss of {self.configuration.id} (seed {self.seed}) is {loss} in epoch"
                            f" {self.epochs_done}: try a smaller lr.")  # fmt: skip
        yield

    def _next(self) -> dict[str, float]:
        where = f"The train function of {self.configuration.id} (seed {self.seed})"
        try:
            if self._rows is None:
                self._rows = iter(self.function(self.configuration, self.seed, self.device))
            row = next(self._rows, None)
        except Exception as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise UserError(f"{where} fails: {describe(error)} ({raised_at(error)}).") from error
        epochs = self.configuration.recipe.epochs
        if row is None:
            raise UserError(f"{where} ends after {self.epochs_done} of {epochs} epochs: it must yield a row for each.")
        if not isinstance(row, Mapping) or "train_loss" not in row:
            raise UserError(f"{where} yields {str(row)[:80]}; valid is a dictionary with train_loss and any of"
                            f" {', '.join(METRICS[1:])}.")  # fmt: skip
        for name, value in row.items():
            if name not in METRICS:
                raise unknown("metric", str(name), METRICS)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"{where} yields {type(value).__name__} as {name}; valid is a number: use float(...).")
        return {name: float(value) for name, value in row.items()}

    def evaluation(self) -> Iterator[None]:
        """Append the history row of the epoch just trained; without one, do nothing."""
        if self._row is not None:
            row, self._row = self._row, None
            first = {"configuration": self.configuration.id, "seed": self.seed, "epoch": self.epochs_done}
            self.history.append({**first, **dict.fromkeys(METRICS), **row})
        yield


class CustomTraining(Training):
    """A configuration trained with several seeds by a function of the user's, one after another.

    Args:
        configuration: student and recipe.
        function: as for `CustomRun`.
        seeds: any integers, at least one.
        device: where to train.

    Example:
        >>> def train(configuration, seed, device):
        ...     for epoch in range(configuration.recipe.epochs):
        ...         yield {"train_loss": 1 / (1 + epoch), "val_accuracy": 0.5}
        >>> training = CustomTraining(Configuration(linear, Recipe(epochs=2)), train, [0], torch.device("cpu"))
        >>> training.finish()
        >>> [row["train_loss"] for row in training.history]
        [1.0, 0.5]
    """

    def __init__(
        self, configuration: Configuration, function: TrainFunction, seeds: Sequence[int], device: torch.device
    ):
        self.begin(configuration, [CustomRun(configuration, function, seed, device) for seed in seeds], [])
