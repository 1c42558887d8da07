"""Taps: forward hooks that capture a teacher's outputs by module path, their layout, and the pooling that follows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from kvbench.core.recipe import POOLINGS
from kvbench.utils.errors import UserError, unknown

POOLS = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd)
CHANNELS_SECOND = (_ConvNd, _BatchNorm, nn.GroupNorm, *POOLS)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)  # these types alone: subclasses permute, such as torchvision's LayerNorm2d
LOOKS = (3, 2)  # images of the two runs that find a layout; fewer, since no axis becomes shorter with larger images
LETTERS = {3: ("BCN", "BNC"), 4: ("BCHW", "BHWC"), 5: ("BCDHW", "BDHWC")}  # what a tap's axes may be called


class Layout(NamedTuple):
    """Which axis of a tap's output holds the images of a batch, and which one the channels."""

    batch: int
    channel: int


def split_tap(tap: str) -> tuple[str, str]:
    """Split a tap into its module path and its axes' letters: ``features.5@BHWC``; without them, the second is empty.

    Raises:
        UserError: the letters do not name one batch axis B and one channel axis C.
    """
    path, at, letters = tap.partition("@")
    if at and (letters.count("B"), letters.count("C"), letters.isalpha()) != (1, 1, True):
        raise UserError(
            f"Cannot read the axes of the tap {tap!r}: give a letter for each axis, B for the batch and C for the"
            f" channels, such as {path}@BCHW or {path}@BHWC."
        )
    return path, letters


@contextmanager
def capture(module: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Capture the output of each tap at every forward pass of ``module`` inside the block.

    Yields a dictionary from tap to its latest output, filled by the forward pass. Every hook is removed when the block
    ends, however it ends.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> with capture(net, ["0"]) as captured:
        ...     _ = net(torch.rand(2, 3, 8, 8))
        >>> captured["0"].shape
        torch.Size([2, 8, 6, 6])

    Raises:
        UserError: a tap is not a module path of ``module`` (the nearest names are given), or its output is not a
            tensor.
    """
    captured: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for tap in taps:

            def keep(_module: nn.Module, _inputs: Any, output: Any, tap: str = tap) -> None:
                if not isinstance(output, Tensor):
                    raise _not_a_tensor(tap, output)
                captured[tap] = output.clone()  # an in-place layer behind the tap would change it

            handle = _find(module, split_tap(tap)[0]).register_forward_hook(keep)
            hooks.callback(handle.remove)
        yield captured


def find_layouts(module: nn.Module, taps: Sequence[str], image: Tensor) -> list[Layout]:
    """Find the batch and channel axis of each tap's output, by running ``module`` on ``image`` (C, H, W) twice.

    The second run has fewer images, twice as large where the module takes them: the batch axis is the one whose length
    is the number of images, the channel axis the one whose length stays. Where that does not settle it, the types of
    the layers inside the tap do: convolutions have their channels second, linear layers last. A tap may also name its
    axes (`split_tap`).

    Example:
        >>> find_layouts(swin_t, ["features.5", "features.7"], torch.rand(3, 224, 224))
        [Layout(batch=0, channel=3), Layout(batch=0, channel=3)]

    Raises:
        UserError: a tap is not a module, does not run exactly once, runs after a tap that is named behind it, gives
            something other than a real tensor with a row for each image, or its channel axis is not clear.
        Exception: whatever ``module`` raises for images of this size.
    """
    paths = [split_tap(tap)[0] for tap in taps]
    for path in paths:
        _find(module, path)
    first = observe(module, image.expand(LOOKS[0], -1, -1, -1))
    for path in paths:
        _check_runs(module, path, first)
    second = observe_larger(module, image)
    if any(len(second.get(path, [])) != 1 for path in paths):
        second = observe(module, image.expand(LOOKS[1], -1, -1, -1))
        for path in paths:
            _check_runs(module, path, second)
    in_order = sorted(paths, key=list(first).index)
    if in_order != paths:
        raise UserError(f"The taps run in another order than they are named: give {','.join(in_order)}.")
    return [layout_of(tap, module, first, second) for tap in taps]


def _find(module: nn.Module, path: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if path and path in modules:
        return modules[path]
    tensors = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    what = "it is a parameter, and taps are modules" if path in tensors else "the teacher has no such module"
    near = difflib.get_close_matches(path, [*modules][1:], n=5, cutoff=0.3) or [*modules][1:6]
    raise UserError(f"No tap {path!r}: {what}. Nearest names: {', '.join(near)}.")


Runs = dict[str, list[Any]]  # the outputs of every module that ran, by its path, in the order in which they first ended


@torch.no_grad()
def observe(module: nn.Module, images: Tensor) -> Runs:
    """Run ``module`` on images (B, C, H, W); the tensors that its parts give are returned without their numbers."""
    runs: Runs = {}
    with ExitStack() as hooks:
        for path, part in module.named_modules(remove_duplicate=False):

            def keep(_module: nn.Module, _inputs: Any, output: Any, path: str = path) -> None:
                outline = torch.empty_like(output, device="meta") if _is_dense(output) else output
                runs.setdefault(path, []).append(outline)

            hooks.callback(part.register_forward_hook(keep).remove)
        module(images)
    return runs


def observe_larger(module: nn.Module, image: Tensor) -> Runs:
    """Run ``module`` on 2 copies of ``image`` (C, H, W) at twice its size; empty where it takes one size alone."""
    with suppress(Exception):
        return observe(module, F.interpolate(image[None], scale_factor=2.0).expand(LOOKS[1], -1, -1, -1))
    return {}


def _is_dense(output: object) -> bool:
    return isinstance(output, Tensor) and output.layout == torch.strided


def _check_runs(module: nn.Module, path: str, runs: Runs) -> None:
    count = len(runs.get(path, []))
    if count == 1:
        return
    near = difflib.get_close_matches(path, [name for name in runs if name], n=3, cutoff=0.3)
    hint = f" Nearest that runs: {', '.join(near)}." if near else ""
    if isinstance(module.get_submodule(path), nn.ModuleList | nn.ModuleDict):
        raise UserError(f"Tap {path!r} is a list of modules, which does not run itself: name one of them.{hint}")
    if count == 0:
        raise UserError(f"Tap {path!r} does not run when the teacher classifies images: choose another module.{hint}")
    parent = path.rpartition(".")[0]
    raise UserError(
        f"Tap {path!r} runs {count} times in a forward pass, and which output is meant is not clear: choose a module"
        f" that runs once{f', such as {parent}' if len(runs.get(parent, [])) == 1 and parent else ''}."
    )


def _not_a_tensor(tap: str, output: object) -> UserError:
    return UserError(f"Tap {tap!r} gives {type(output).__name__}, not one tensor: choose another module.")


def layout_of(tap: str, module: nn.Module, first: Runs, second: Runs) -> Layout:
    """The layout of a tap's output, from what ran on 3 images and on 2 images, the latter larger where possible."""
    path, letters = split_tap(tap)
    output, other = first[path][0], second[path][0]
    if not isinstance(output, Tensor):
        raise _not_a_tensor(tap, output)
    if output.layout != torch.strided or not output.is_floating_point():
        kind = output.dtype if output.layout == torch.strided else output.layout
        raise UserError(f"Tap {tap!r} gives {str(kind).removeprefix('torch.')} numbers: taps need real floating point.")
    shape = tuple(output.shape)
    if not isinstance(other, Tensor) or other.ndim != output.ndim:
        raise UserError(f"Tap {tap!r} has another number of axes for other images: choose another module.")
    batches = [axis for axis, lengths in enumerate(zip(shape, other.shape, strict=True)) if lengths == LOOKS]
    axes = [axis for axis in range(output.ndim) if axis not in batches]
    if len(batches) != 1 or not axes:
        raise UserError(
            f"Tap {tap!r} gives {shape} for {LOOKS[0]} images: that is not a row for each. Choose another module."
        )
    constant = [axis for axis in axes if shape[axis] == other.shape[axis]] if len(axes) > 1 else axes
    if letters:
        if len(letters) != output.ndim or letters.index("B") != batches[0] or letters.index("C") not in constant:
            raise UserError(
                f"The axes of the tap {tap!r} do not fit its output: {shape} for {LOOKS[0]} images,"
                f" {tuple(other.shape)} for {LOOKS[1]}{'' if constant == axes else ' images of twice the size'}."
            )
        return Layout(batches[0], letters.index("C"))
    wide = [axis for axis in axes if max(shape[axis], other.shape[axis]) > 1]
    for candidates in (constant, wide, _by_type(path, module, first) if batches == [0] else []):
        if len(candidates) == 1 and candidates[0] in constant:
            return Layout(batches[0], candidates[0])
    raise UserError(
        f"Tap {path!r} gives {shape} for {LOOKS[0]} images, and nothing tells which axis holds the channels: name the"
        f" axes behind the tap, {' or '.join(f'{path}@{one}' for one in LETTERS.get(output.ndim, ('B...C...',)))}."
    )


def _by_type(path: str, module: nn.Module, runs: Runs) -> list[int]:
    """The channel axes that the types of the layers inside a tap tell, where they give what the tap gives."""
    shape = runs[path][0].shape
    axes = set()
    for name, layer in module.get_submodule(path).named_modules(prefix=path):
        if any(isinstance(output, Tensor) and output.shape == shape for output in runs.get(name, [])):
            if isinstance(layer, CHANNELS_SECOND):
                axes.add(1)
            elif type(layer) in CHANNELS_LAST and len(getattr(layer, "normalized_shape", "1")) == 1:
                axes.add(len(shape) - 1)
    return sorted(axes)


def pool(outputs: Sequence[Tensor], pooling: str) -> list[Tensor]:
    """Pool and flatten tap outputs (B, C, ...), shallow to deep, to (B, D) each.

    ``global`` averages a map (B, C, H, W) to (B, C), as the source does in effect. ``pyramid``, its evident intent,
    averages to as many cells a side as the map is larger than the deepest one: 1, 2, 4, 8 for layer4 to layer1 of a
    ResNet. Of other outputs, all axes behind the channels are averaged: tokens (B, C, N) to (B, C); vectors (B, C)
    stay. `channels_second` brings outputs into this order.

    Example:
        >>> [x.shape for x in pool([torch.rand(8, 256, 14, 14), torch.rand(8, 512, 7, 7)], "pyramid")]
        [torch.Size([8, 1024]), torch.Size([8, 512])]

    Raises:
        UserError: the pooling is not known.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    deepest = outputs[-1].shape
    pooled = []
    for x in outputs:
        if x.ndim == 4:
            cells = (1, 1)
            if pooling == "pyramid" and len(deepest) == 4:
                cells = (max(1, round(x.shape[2] / deepest[2])), max(1, round(x.shape[3] / deepest[3])))
            pooled.append(F.adaptive_avg_pool2d(x, cells).flatten(1))
        else:
            pooled.append(x.flatten(2).mean(2) if x.ndim > 2 else x)
    return pooled


def channels_second(x: Tensor, layout: Layout) -> Tensor:
    """View a tap's output as (B, C, ...), the other axes in their order: (B, H, W, C) as (B, C, H, W)."""
    return x.movedim((layout.batch, layout.channel), (0, 1))
