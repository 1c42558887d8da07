"""The teacher's pass: images through the teacher, batch by batch, and what the taps and the logits are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from kvbench.core.hooks import capture, pool
from kvbench.data.loader import batches
from kvbench.features.spec import BankSettings
from kvbench.utils.errors import UserError
from kvbench.utils.oom import OTHER_PLACE, enough_memory

BATCH = 128  # images that are read, and passed on an accelerator, at a time
# On the CPU a pass is fastest while a layer's maps stay in the caches: two cores made 1,024 images of 64 pixels 1.1
# times as fast in passes of 128 as of 32, 128 images of 224 pixels 1.2 times as fast in passes of 16 as of 128.
PIXELS = 2**19  # of a pass on the CPU, about
LEAST = 16  # images of a pass: of fewer, the last layer takes another kernel on many CPUs, which rounds otherwise
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


def extract(settings: BankSettings, device: torch.device, rows: Sequence[int]) -> Iterator[Rows]:
    """Pass images through the teacher, in the order of ``rows``.

    Yields, for every `BATCH` of them, labels (B,), ``tap0`` and so on (B, D) each, shallow to deep, and logits (B, K),
    on the device, in the precision of ``settings``.

    Raises:
        UserError: the classes of the images are not the teacher's, an output is not finite, or memory runs out.
    """
    images, teacher = settings.images, settings.teacher
    with enough_memory(f"the teacher {teacher.name} and {BATCH} images on {device}", OTHER_PLACE):
        module = teacher.module.to(memory_format=torch.channels_last).to(device)
        with capture(module, settings.taps) as captured:
            for x, labels in batches(images, BATCH, rows):
                made: list[list[Tensor]] = []
                for part in x.chunk(-(-len(x) // _pass_size(x, device))):
                    logits = _forward(settings, module, part.to(device, memory_format=torch.channels_last))
                    taps = pool([captured[tap] for tap in settings.taps], settings.pooling)
                    made.append([logits, *taps])
                logits, *taps = (torch.cat(parts).to(settings.dtype) for parts in zip(*made, strict=True))
                named = {f"tap{i}": tap for i, tap in enumerate(taps)}
                yield {"labels": labels.to(torch.int64), **named, "logits": logits}


def _pass_size(x: Tensor, device: torch.device) -> int:
    """How many images of a batch (B, 3, H, W) go through the teacher at once, at most."""
    return max(LEAST, PIXELS // x[0, 0].numel()) if device.type == "cpu" else BATCH


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
