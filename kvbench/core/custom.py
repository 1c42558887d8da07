"""Custom training loops: an ablation without a teacher, whose rows a function of the user's yields."""

from __future__ import annotations

import math
import sys
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
SHARES = ("val_accuracy", "agreement")
END = object()  # of a function's rows
TrainFunction = Callable[[Configuration, int, torch.device], Iterable[Mapping[str, Any]]]


class CustomRun(Run):
    """One configuration trained with one seed by a function of the user's.

    Python's, numpy's and torch's global generators begin with the seed, and go on between rows where the function left
    them. An interrupted run starts over, since nobody knows the function's state.

    Args:
        configuration: student and recipe, whose ``epochs`` say how many rows there are.
        function: yields a row for each epoch, with ``train_loss`` and any other of `METRICS`, the same ones each time.
            Without ``seconds`` these are the time that the row took, its evaluation included.
        seed: any integer.
        device: where to train.
    """

    def __init__(self, configuration: Configuration, function: TrainFunction, seed: int, device: torch.device):
        self.configuration, self.function, self.seed, self.device = configuration, function, seed, device
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.diverged = False
        self.draws = True
        self._rows: Iterator[object] | None = None
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
        self._row = {"seconds": time.perf_counter() - start, **self._checked(row)}
        if self.done:
            self._rows = None  # and what the function holds
        loss = self._row["train_loss"]
        if not math.isfinite(loss):
            self.diverged = True
            raise UserError(f"The training loss of {self.configuration.id} (seed {self.seed}) is {loss} in epoch"
                            f" {self.epochs_done}: try a smaller lr.")  # fmt: skip
        yield

    @property
    def _where(self) -> str:
        return f"The train function of {self.configuration.id} (seed {self.seed})"

    def _next(self) -> object:
        try:
            if self._rows is None:
                self._rows = iter(self.function(self.configuration, self.seed, self.device))
            with torch.enable_grad():  # a function that yields under no_grad would leave it on for the next seed
                row = next(self._rows, END)
        except Exception as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise UserError(f"{self._where} fails: {describe(error)} ({raised_at(error)}).") from error
        if row is END:
            raise UserError(f"{self._where} ends after {self.epochs_done} of {self.configuration.recipe.epochs} epochs:"
                            " it must yield a row for each.")  # fmt: skip
        return row

    def _checked(self, row: object) -> dict[str, float]:
        if not isinstance(row, Mapping) or "train_loss" not in row:
            raise UserError(f"{self._where} yields {str(row)[:80]}; valid is a dictionary with train_loss and any of"
                            f" {', '.join(METRICS[1:])}.")  # fmt: skip
        for name, value in row.items():
            if name not in METRICS:
                raise unknown("metric", str(name), METRICS)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(
                    f"{self._where} yields {type(value).__name__} as {name}; valid is a number: use float(...)."
                )
            diverged = name == "train_loss" and not math.isfinite(value)
            if not diverged and not (0 <= value <= (1 if name in SHARES else sys.float_info.max)):
                valid = "a share between 0 and 1" if name in SHARES else "a finite number from 0"
                raise UserError(
                    f"{self._where} yields {value} as {name} in epoch {self.epochs_done}; valid is {valid}."
                )
        measured = {name for name in METRICS if self.history and self.history[0][name] is not None} - {"seconds"}
        if changed := measured ^ (row.keys() - {"seconds"}) if self.history else ():
            raise UserError(f"{self._where} yields {', '.join(sorted(changed))} in some epochs only: yield the same"
                            " metrics in each.")  # fmt: skip
        return {name: float(value) for name, value in row.items()}

    def evaluation(self) -> Iterator[None]:
        """Append the history row of the epoch just trained; without one, do nothing."""
        if self._row is not None:
            row, self._row = self._row, None
            first = {"configuration": self.configuration.id, "seed": self.seed, "epoch": self.epochs_done}
            self.history.append({**first, **dict.fromkeys(METRICS), **row})
        yield


class CustomTraining(Training):
    """A configuration trained with several seeds by a function of the user's, one seed after another.

    An interruption loses the seed that it is in: those before it are complete.

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

    @property
    def epochs_left(self) -> int:
        """How many epochs are not yet trained, of all seeds together."""
        return sum(run.configuration.recipe.epochs - run.epochs_done for run in self.runs)

    def epoch(self) -> None:
        """Train one epoch of the first seed that is not done; after the last, do nothing."""
        self._side_by_side(lambda run: run.chunks(), [run for run in self.runs if not run.done][:1])
