"""Faults of evaluation, seeds and what is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.mutation.faults.fault import Fault, patched

_init, _chunks, _evaluation = Run.__init__, Run.chunks, Run.evaluation


def rewritten(change: Callable[[Run, dict[str, Any]], None]) -> Callable[[], AbstractContextManager[object]]:
    """Change the history's row of each epoch once it is written."""

    def evaluation(self: Run) -> Iterator[None]:
        before = len(self.history)
        yield from _evaluation(self)
        if len(self.history) > before:
            change(self, self.history[-1])

    return patched(Run, "evaluation", evaluation)


def epoch_from_zero(_: Run, row: dict[str, Any]) -> None:
    """Epochs are counted from 0."""
    row["epoch"] -= 1


def one_epoch_late(run: Run, row: dict[str, Any]) -> None:
    """The loss of the epoch before, from the second on."""
    late = getattr(run, "late", row["train_loss"])
    run.late, row["train_loss"] = row["train_loss"], late  # type: ignore[attr-defined]


def shares_swapped(_: Run, row: dict[str, Any]) -> None:
    """Accuracy and agreement change places."""
    row["val_accuracy"], row["agreement"] = row["agreement"], row["val_accuracy"]


def in_bits(_: Run, row: dict[str, Any]) -> None:
    """The training loss in bits."""
    row["train_loss"] /= 0.6931471805599453


def rounded(_: Run, row: dict[str, Any]) -> None:
    """The training loss to two decimals."""
    row["train_loss"] = round(row["train_loss"], 2)


def validated_before(self: Run) -> Iterator[None]:
    """Validate before the epoch that the row is about."""
    weights = {name: value.clone() for name, value in self.module.state_dict().items()}
    yield from _chunks(self)
    self.stale = weights  # type: ignore[attr-defined]


def evaluation_stale(self: Run) -> Iterator[None]:
    """Evaluate with the weights from before the epoch."""
    weights = {name: value.clone() for name, value in self.module.state_dict().items()}
    stale = getattr(self, "stale", None)
    if stale is not None and self._latest is not None:
        self.module.load_state_dict(stale)
        yield from _evaluation(self)
        self.module.load_state_dict(weights)


@contextmanager
def stale_validation() -> Iterator[None]:
    """Validation is one epoch late."""
    with patch.object(Run, "chunks", validated_before), patch.object(Run, "evaluation", evaluation_stale):
        yield


def one_seed(self: Run, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int) -> None:
    """Every run has seed 0."""
    _init(self, configuration, train, val, 0)
    self.seed = seed


def same_order(self: Run, configuration: Configuration, train: FeatureBank, val: FeatureBank, seed: int) -> None:
    """The order of batches does not follow the seed."""
    _init(self, configuration, train, val, seed)
    self.order = torch.Generator().manual_seed(0)


def no_eval_mode(self: nn.Module) -> nn.Module:
    """Students stay in train mode for validation."""
    return self


def untimed(_: Run, row: dict[str, Any]) -> None:
    """Seconds are halved."""
    row["seconds"] /= 2


RECORDING_FAULTS = [
    Fault("epochs-from-zero", "epochs are written from 0", rewritten(epoch_from_zero)),
    Fault("loss-one-epoch-late", "each epoch is written with the training loss of the one before",
          rewritten(one_epoch_late)),
    Fault("validation-one-epoch-late", "validation runs before the epoch that it is written for",
          stale_validation),
    Fault("accuracy-is-agreement", "accuracy and agreement change places", rewritten(shares_swapped)),
    Fault("loss-in-bits", "the training loss is in bits", rewritten(in_bits)),
    Fault("loss-rounded", "the training loss is written with two decimals", rewritten(rounded)),
    Fault("one-seed", "every run has seed 0", patched(Run, "__init__", one_seed)),
    Fault("one-order-of-batches", "the order of batches does not follow the seed", patched(Run, "__init__", same_order)),  # noqa: E501
    Fault("no-eval-mode", "students stay in train mode for validation", patched(nn.Module, "eval", no_eval_mode),
          ("memory",), equivalent="no student has a layer that trains and validates differently"),
    Fault("seconds-halved", "seconds are half of what was measured", rewritten(untimed),
          equivalent="all configurations' seconds are: only ratios between them are compared"),
]  # fmt: skip
