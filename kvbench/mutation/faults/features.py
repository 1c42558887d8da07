"""Faults of data, teacher, taps and banks."""

from __future__ import annotations

import re
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
from kvbench.mutation.faults.fault import CannotActError, Fault, patched, with_banks, with_features

CONFIDENT = 20.0  # a logit that leaves the other classes nothing
NOISE = 0.01  # relative
EVERY = 100  # rows


def hooked_elsewhere(move: Callable[[str], str]) -> Callable[[], AbstractContextManager[object]]:
    """Hook other modules than the taps say; the taps keep their names."""
    hooked = hooks.capture

    @contextmanager
    def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        renamed = {_there(module, move(tap)): tap for tap in taps}
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


def _there(module: nn.Module, path: str) -> str:
    """The path of a module that a teacher has; raises `CannotActError` else."""
    if path not in dict(module.named_modules()):
        raise CannotActError(f"the teacher has no module {path}: it is named otherwise than a ResNet18")
    return path


def block_before(tap: str) -> str:
    """``layer4.0`` -> ``layer3.1``, in a network of two blocks a layer, where the first has none before it."""
    found = re.fullmatch(r"layer([1-4])\.([01])", tap)
    place = 2 * int(found[1]) + int(found[2]) - 1 if found else 0
    if place < 2:
        raise CannotActError(f"the tap {tap} has no block before it as in a ResNet18")
    return f"layer{place // 2}.{place % 2}"


@contextmanager
def before_last_relu() -> Iterator[None]:
    """Capture what goes into a block's last ReLU: after the residual is added."""

    @contextmanager
    def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        captured: dict[str, Tensor] = {}

        def keep(tap: str) -> Callable[[nn.Module, Any], None]:
            return lambda _module, inputs: captured.__setitem__(tap, inputs[0].clone())

        last = {tap: module.get_submodule(_there(module, f"{tap}.relu")) for tap in taps}
        handles = [relu.register_forward_pre_hook(keep(tap)) for tap, relu in last.items()]
        yield captured  # a block calls its one ReLU twice: the later input stays
        for handle in handles:
            handle.remove()

    with patch.object(extract, "capture", capture):
        yield


@contextmanager
def teacher_in_train_mode() -> Iterator[None]:
    """Let the teacher normalise by its batches, and learn their statistics."""
    passing = extract.passing

    def in_train_mode(settings: BankSettings, *arguments: Any) -> AbstractContextManager[Any]:
        settings.teacher.module.train()
        return passing(settings, *arguments)

    with patch.object(extract, "passing", in_train_mode):
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


def last_two_swapped(bank: FeatureBank) -> FeatureBank:
    """The last two taps in each other's place."""
    if len(bank.taps) < 2:
        raise CannotActError("the teacher has one tap")
    *others, one, two = bank.taps
    return replace(bank, taps=(*others, two, one))


def noisy(bank: FeatureBank) -> FeatureBank:
    """Each feature times 1 + `NOISE` * N(0, 1)."""
    draw = torch.Generator().manual_seed(0)
    noise = [1 + NOISE * torch.randn(tap.shape, generator=draw).to(tap.device) for tap in bank.taps]
    return replace(bank, taps=tuple((tap * factor).to(tap.dtype) for tap, factor in zip(bank.taps, noise, strict=True)))


def some_logits_permuted(bank: FeatureBank) -> FeatureBank:
    """The logits of every `EVERY`-th row go round among these rows."""
    logits = bank.logits.clone()
    logits[::EVERY] = logits[::EVERY].roll(1, 0)
    return replace(bank, logits=logits)


def fewer_rows(count: Callable[[FeatureBank], int]) -> Callable[[], AbstractContextManager[object]]:
    """Leave out the last rows of the validation bank."""
    return with_banks(lambda train, val: (train, rows(val, slice(0, len(val) - count(val)))))


def twice(train: FeatureBank) -> FeatureBank:
    """The first eighth of the rows stands in the place of the last as well."""
    return rows(train, torch.arange(len(train)).clamp(min=len(train) // 8) - len(train) // 8)


FEATURE_FAULTS = [
    Fault("taps-swapped", "the last two taps change places", with_features(last_two_swapped)),
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
    Fault("feature-noise", f"features are noisy by {NOISE:.0%}", with_features(noisy)),
    Fault("logit-rows-permuted", f"the logits of every {EVERY}th training image are another's",
          with_banks(lambda train, val: (some_logits_permuted(train), val))),
    Fault("one-class-missing", "training lacks one class",
          with_banks(lambda train, val: (rows(train, train.labels != train.labels[0]), val))),
    Fault("rows-twice", "an eighth of the training images is there twice, another not at all",
          with_banks(lambda train, val: (twice(train), val))),
    Fault("validation-on-training-data", "validation reads the training split",
          with_banks(lambda train, val: (train, rows(train, slice(0, len(val)))))),
    Fault("validation-cut", "validation leaves out its last images",
          fewer_rows(lambda val: len(val) // 8)),
    Fault("validation-16-rows-fewer", "validation leaves out its last 16 images", fewer_rows(lambda _: 16)),
]  # fmt: skip


_render = fractals.render


def _bgr(*arguments: Any) -> Tensor:
    return _render(*arguments).flip(1)
