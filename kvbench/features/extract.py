"""The teacher's pass: images through the teacher, batch by batch, and what the taps and the logits are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from kvbench.core.hooks import capture, channels_second, pool
from kvbench.core.numerics import default_numerics
from kvbench.data.contract import check_repeatable
from kvbench.data.loader import batches
from kvbench.features.checkpoint import MEND
from kvbench.features.spec import BankSettings
from kvbench.features.teacher import check_logits
from kvbench.utils.errors import UserError
from kvbench.utils.oom import OTHER_PLACE, enough_memory

BATCH = 128  # images that are read, and passed on an accelerator, at a time
# On the CPU a pass is fastest while a layer's maps stay in the caches: two cores made 1,024 images of 64 pixels 1.1
# times as fast in passes of 128 as of 32, 128 images of 224 pixels 1.2 times as fast in passes of 16 as of 128.
PIXELS = 2**19  # of a pass on the CPU, about
CLOSE = 1e-3  # of the largest logit: rounding is a thousandth of it
LEAST = 16  # images of a pass: of fewer, the last layer takes another kernel on many CPUs, which rounds otherwise
Rows = dict[str, Tensor]  # a batch's rows of every column


def check(settings: BankSettings) -> None:
    """Refuse what no pass can be made with, before anything is written.

    Raises:
        UserError: the teacher does not know the images' classes or does not take their size, a tap cannot be used, or
            images or logits are not the same each time.
    """
    _ = settings.outputs, settings.layouts
    check_repeatable(settings.images)
    _check_teacher(settings)


@torch.no_grad()
def _check_teacher(settings: BankSettings) -> None:
    """Refuse a teacher whose logits of an image change from pass to pass or with the batch, or are probabilities."""
    teacher, count = settings.teacher, min(2, len(settings.images))
    images = next(batches(settings.images, count, range(count), workers=0))[0].to(teacher.device)
    with enough_memory(f"the teacher {teacher.name} on {teacher.device}", OTHER_PLACE):
        logits, again, alike = (
            check_logits(teacher.name, teacher.module(x), count).float()
            for x in (images, images, images[:1].expand_as(images))
        )
    if not logits.isfinite().all():
        return  # `extract` names it
    allowed = CLOSE * float(logits.abs().max())
    if not torch.allclose(logits, again, rtol=0, atol=allowed):
        raise UserError(
            f"The teacher {teacher.name} gives other logits each time for the same images: it must neither draw random"
            " numbers nor change in a pass."
        )
    if not torch.allclose(logits[0], alike[0], rtol=0, atol=allowed):
        raise UserError(
            f"The teacher {teacher.name} gives an image other logits in another batch: its normalization must use"
            " recorded statistics (BatchNorm with track_running_stats=True), not those of the batch."
        )
    if (logits >= 0).all() and torch.allclose(logits.sum(1), logits.new_ones(count), atol=1e-4):
        raise UserError(f"The teacher {teacher.name} gives probabilities, not logits: leave its softmax out.")


def extract(settings: BankSettings, device: torch.device, rows: Sequence[int]) -> Iterator[Rows]:
    """Pass images through the teacher, in the order of ``rows``.

    Yields, for every `BATCH` of them, labels (B,), ``tap0`` and so on (B, D) each, shallow to deep, and logits (B, K),
    on the device, in the precision of ``settings``.

    Raises:
        UserError: the teacher does not know the images' classes or does not take their size, a tap cannot be used, an
            output is not finite, or memory runs out.

    Example:
        >>> from kvbench.features.teacher import frozen
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> images = WORKLOADS["fractals"].images("train", None, 4)
        >>> teacher = frozen("mine", net.append(torch.nn.Linear(8, len(images.classes))), images.classes)
        >>> (rows,) = extract(BankSettings(images, teacher, ("0",)), torch.device("cpu"), range(4))
        >>> rows["tap0"].shape, rows["logits"].shape
        (torch.Size([4, 8]), torch.Size([4, 200]))
    """
    with passing(settings, device) as passed:
        for x, labels in batches(settings.images, BATCH, rows):
            yield passed(x, labels)


@contextmanager
def passing(settings: BankSettings, device: torch.device) -> Iterator[Callable[[Tensor, Tensor], Rows]]:
    """A block with a teacher on a device: a function from a batch of images (B, 3, size, size) and labels to its rows.

    Raises:
        UserError: as `extract`.
    """
    _ = settings.outputs, settings.layouts  # before hooks are there
    teacher = settings.teacher
    needed = f"the teacher {teacher.name} and {BATCH} images on {device}", OTHER_PLACE
    widths: list[int] = []
    with enough_memory(*needed):
        module = teacher.module.to(memory_format=torch.channels_last).to(device)
    with capture(module, settings.taps) as captured:

        @enough_memory(*needed)
        def passed(x: Tensor, labels: Tensor) -> Rows:
            done: list[list[Tensor]] = []
            for part in x.chunk(-(-len(x) // _pass_size(x, device))):
                captured.clear()
                logits = _forward(settings, module, _moved(part, device))
                features = _pooled(settings, captured, len(part))
                found = [feature.shape[1] for feature in features]
                if found != (widths or found):
                    raise UserError(f"The taps give {found} features for some images and {widths} for others.")
                widths[:] = found
                done.append([logits, *features])
            logits, *taps = (torch.cat(parts) for parts in zip(*done, strict=True))
            return {"labels": labels, **{f"tap{i}": tap for i, tap in enumerate(taps)}, "logits": logits}

        yield passed


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Images on the device, as their passes are fastest; from memory that CUDA GPUs read while this process goes on."""
    x = x.pin_memory() if device.type == "cuda" else x
    return x.to(device, memory_format=torch.channels_last, non_blocking=True)


def _pass_size(x: Tensor, device: torch.device) -> int:
    """How many images of a batch (B, 3, H, W) go through the teacher at once, at most."""
    return max(LEAST, PIXELS // x[0, 0].numel()) if device.type == "cpu" else BATCH


# Not inference_mode: a student's backward pass saves the features. Here and not around the generator, whose caller
# would find gradients switched off between two batches.
@default_numerics()
@torch.no_grad()
def _forward(settings: BankSettings, module: torch.nn.Module, x: Tensor) -> Tensor:
    """One forward pass (B, 3, size, size) -> logits (B, K), checked; what is captured is captured."""
    teacher, classes = settings.teacher, settings.images.classes
    half = torch.autocast(x.device.type, settings.dtype) if settings.dtype != torch.float32 else nullcontext()
    with half:
        logits = check_logits(teacher.name, module(x), len(x))
    logits = logits.to(settings.dtype)
    if settings.outputs is not None:
        logits = logits[:, list(settings.outputs)]
    if logits.shape[1] != len(classes):
        raise UserError(
            f"The data has {len(classes)} classes, the teacher {teacher.name} {logits.shape[1]} outputs: {MEND}."
        )
    if not torch.isfinite(logits).all():
        advice = _advice(settings, "is its checkpoint damaged?")
        raise UserError(f"The teacher {teacher.name} gives logits that are not finite: {advice}")
    return logits


def _pooled(settings: BankSettings, captured: dict[str, Tensor], images: int) -> list[Tensor]:
    """What the taps captured, pooled to (B, D) each and checked."""
    if idle := [tap for tap in settings.taps if tap not in captured]:
        raise UserError(f"Tap {idle[0]!r} does not run for some of the images: choose another module.")
    outputs = [captured[tap] for tap in settings.taps]
    for tap, output, layout in zip(settings.taps, outputs, settings.layouts, strict=True):
        if output.ndim <= max(layout) or output.shape[layout.batch] != images:
            raise UserError(f"Tap {tap!r} gives {tuple(output.shape)} for {images} images: choose another module.")
    outputs = [channels_second(output, layout) for output, layout in zip(outputs, settings.layouts, strict=True)]
    features = [feature.to(settings.dtype) for feature in pool(outputs, settings.pooling)]
    for tap, feature in zip(settings.taps, features, strict=True):
        if not torch.isfinite(feature).all():
            advice = _advice(settings, "choose another module or teacher.")
            raise UserError(f"Tap {tap!r} gives numbers that are not finite: {advice}")
    return features


def _advice(settings: BankSettings, usual: str) -> str:
    """What to do about numbers that are not finite."""
    if settings.dtype != torch.float16:
        return usual
    return f"{usual} Or try --kvbench-precision bfloat16: float16 ends at 65,504."
