"""Faults of data, teacher, taps and banks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvbench.core import hooks
from kvbench.core.bank import FeatureBank
from kvbench.data import fractals
from kvbench.features import extract
from kvbench.features.spec import BankSettings
from kvbench.mutation.faults.fault import Fault, patched, with_banks, with_features

CONFIDENT = 20.0  # a logit that leaves the other classes nothing
SUBSET = 512  # rows


def hooked_elsewhere(move: Callable[[str], str]) -> Callable[[], AbstractContextManager[object]]:
    """Hook other modules than the taps say; the taps keep their names."""
    hooked = hooks.capture

    @contextmanager
    def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        renamed = {move(tap): tap for tap in taps}
        with hooked(module, list(renamed)) as captured:
            yield _Renamed(captured, renamed)

    return patched(extract, "capture", capture)


class _Renamed(dict[str, Tensor]):
    """A view of what is captured under other names."""

    def __init__(self, captured: dict[str, Tensor], names: dict[str, str]):
        super().__init__()
        self.captured, self.names = captured, {new: old for old, new in names.items()}

    def __missing__(self, tap: str) -> Tensor:
        return self.captured[self.names[tap]]

    def __contains__(self, tap: object) -> bool:
        return tap in self.names and self.names[str(tap)] in self.captured

    def clear(self) -> None:
        self.captured.clear()


def block_before(tap: str) -> str:
    """``layer4.0`` -> ``layer3.1``, in a network of two blocks a layer."""
    layer, block = int(tap[5]), int(tap[7])
    return f"layer{layer}.{block - 1}" if block else f"layer{layer - 1}.1"


@contextmanager
def before_last_relu() -> Iterator[None]:
    """Capture what goes into a block's last ReLU: after the residual is added."""

    @contextmanager
    def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        captured: dict[str, Tensor] = {}

        def keep(tap: str) -> Callable[[nn.Module, Any], None]:
            return lambda _module, inputs: captured.__setitem__(tap, inputs[0].clone())

        handles = [module.get_submodule(f"{tap}.relu").register_forward_pre_hook(keep(tap)) for tap in taps]
        yield captured  # a block calls its one ReLU twice: the later input stays
        for handle in handles:
            handle.remove()

    with patch.object(extract, "capture", capture):
        yield


@contextmanager
def teacher_in_train_mode() -> Iterator[None]:
    """Let the teacher normalise by its batches, and learn their statistics."""
    extracted = extract.extract

    def in_train_mode(settings: BankSettings, *arguments: Any) -> Iterator[extract.Rows]:
        settings.teacher.module.train()
        return extracted(settings, *arguments)

    with patch.object(extract, "extract", in_train_mode):
        yield


def labels_as_logits(bank: FeatureBank) -> FeatureBank:
    """The bank of a teacher that is sure of every label."""
    return replace(bank, logits=CONFIDENT * F.one_hot(bank.labels, bank.classes).float())


def in_bf16(bank: FeatureBank) -> FeatureBank:
    """The bank as stored in bfloat16."""
    return replace(bank, taps=tuple(tap.bfloat16().float() for tap in bank.taps))


def rows(bank: FeatureBank, chosen: Tensor | slice) -> FeatureBank:
    """Some rows of a bank."""
    taps, logits, labels = bank.batch(chosen)
    return FeatureBank(tuple(taps), logits, labels)


def tap_order(*order: int) -> Callable[[FeatureBank], FeatureBank]:
    """Taps in another order."""
    return lambda bank: replace(bank, taps=tuple(bank.taps[i] for i in order))


FEATURE_FAULTS = [
    Fault("taps-swapped", "the last two taps change places", with_features(tap_order(0, 2, 1))),
    Fault("taps-one-block-early", "hooks sit one block before the tap", hooked_elsewhere(block_before), teacher=True),
    Fault("hook-before-relu", "features are taken before the block's last ReLU", before_last_relu, teacher=True),
    Fault("hook-before-residual", "features are taken before the residual is added",
          hooked_elsewhere(lambda tap: f"{tap}.bn2"), teacher=True),
    Fault("teacher-in-train-mode", "the teacher's batch normalisation is in train mode", teacher_in_train_mode,
          teacher=True),
    Fault("max-pooled", "features are max-pooled instead of averaged",
          patched(F, "adaptive_avg_pool2d", F.adaptive_max_pool2d), ("memory",), teacher=True),
    Fault("statistics-wrong", "images are normalised with mean and deviation 0.5",
          lambda: patch.multiple(fractals, IMAGENET_MEAN=(0.5,) * 3, IMAGENET_STD=(0.5,) * 3), teacher=True),
    Fault("channels-swapped", "images come as BGR", lambda: patch.object(fractals, "render", _bgr), teacher=True),
    Fault("labels-for-logits", "students are trained on labels instead of the teacher's logits",
          with_banks(lambda train, val: (labels_as_logits(train), val))),
    Fault("features-in-bf16", "features are stored in bfloat16", with_features(in_bf16)),
    Fault("features-of-wrong-rows", "features are one row off the logits",
          with_banks(lambda train, val: (replace(train, taps=tuple(t.roll(1, 0) for t in train.taps)), val))),
    Fault("one-class-missing", "training lacks one class of the 1000",
          with_banks(lambda train, val: (rows(train, train.labels != 7), val))),
    Fault("rows-twice", f"{SUBSET} training images are there twice, {SUBSET} others not at all",
          with_banks(lambda train, val: (rows(train, torch.arange(len(train)).clamp(min=SUBSET) - SUBSET), val))),
    Fault("validation-on-training-data", "validation reads the training split",
          with_banks(lambda train, val: (train, rows(train, slice(0, len(val)))))),
    Fault("validation-cut", "validation leaves out its last images",
          with_banks(lambda train, val: (train, rows(val, slice(0, len(val) - len(val) // 8))))),
]  # fmt: skip


_render = fractals.render


def _bgr(*arguments: Any) -> Tensor:
    return _render(*arguments).flip(1)
