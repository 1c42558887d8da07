"""The teacher's pass: images through the teacher, batch by batch, and what the taps and the logits are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from kvbench.bank import BankSettings
from kvbench.data import batches
from kvbench.errors import UserError
from kvbench.hooks import capture, pool
from kvbench.memory import enough_memory

BATCH = 128  # images a teacher pass; more measured no faster on two cores
Tick = Callable[[int], object]  # told how many images have gone through
Rows = dict[str, Tensor]  # a batch's rows of every column


def check(settings: BankSettings) -> None:
    """Refuse what makes no pass, before anything is written.

    Raises:
        UserError: the classes of the images are not the teacher's by name, or a tap does not exist.
    """
    images, teacher = settings.images, settings.teacher
    if teacher.classes is not None and teacher.classes != images.classes:
        odd = sorted(set(images.classes) ^ set(teacher.classes))
        raise UserError(
            f"The data's {len(images.classes)} classes are not the {len(teacher.classes)} that the teacher "
            f"{teacher.name} was trained on; only on one side: {', '.join(odd[:5]) or 'none (the order differs)'}."
        )
    with capture(teacher.module, settings.taps):
        pass


def extract(
    settings: BankSettings, device: torch.device, rows: Sequence[int], tick: Tick = lambda _: None
) -> Iterator[Rows]:
    """Pass images through the teacher, in the order of ``rows``.

    Yields, for every `BATCH` of them, labels (B,), ``tap0`` and so on (B, D) each, shallow to deep, and logits (B, K),
    on the device, in the precision of ``settings``.

    Raises:
        UserError: the classes of the images are not the teacher's, an output is not finite, or memory runs out.
    """
    images, teacher = settings.images, settings.teacher
    remedy = "Close what else uses it, or choose another device with --kvbench-device."
    with enough_memory(f"the teacher {teacher.name} and {BATCH} images on {device}", remedy):
        module = teacher.module.to(memory_format=torch.channels_last).to(device)
        with capture(module, settings.taps) as captured:
            for x, labels in batches(images, BATCH, rows):
                logits = _forward(settings, module, x.to(device, memory_format=torch.channels_last))
                taps = pool([captured[tap] for tap in settings.taps], settings.pooling)
                named = {f"tap{i}": tap.to(settings.dtype) for i, tap in enumerate(taps)}
                yield {"labels": labels.to(torch.int64), **named, "logits": logits.to(settings.dtype)}
                tick(len(labels))


# Not inference_mode: a student's backward pass saves the features. Here and not around the generator, whose caller
# would find gradients switched off between two batches.
@torch.no_grad()
def _forward(settings: BankSettings, module: torch.nn.Module, x: Tensor) -> Tensor:
    """One forward pass (B, 3, size, size) -> logits (B, K), checked; what is captured is captured."""
    teacher, classes = settings.teacher, settings.images.classes
    half = torch.autocast(x.device.type, settings.dtype) if settings.dtype != torch.float32 else nullcontext()
    # Deterministic, so that what an interrupted pass left and what is made later fit bit by bit.
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with exact, half:
        logits: Tensor = module(x)
    if logits.shape[1] != len(classes):
        raise UserError(
            f"The data has {len(classes)} classes, the teacher {teacher.name} {logits.shape[1]} outputs:"
            " give a checkpoint trained on this data with --kvbench-checkpoint."
        )
    if not torch.isfinite(logits).all():
        raise UserError(f"The teacher {teacher.name} gives logits that are not finite: is its checkpoint damaged?")
    return logits
