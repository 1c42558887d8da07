"""What of a teacher can be tapped, and its last three stages, which are tapped where nobody names others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from kvbench.core.hooks import LOOKS, POOLS, layout_of, observe, observe_larger
from kvbench.utils.errors import UserError

COUNT = 3  # taps by default: as many as the source's students read


@dataclass(frozen=True)
class Tap:
    """A module that can be tapped, as `capture` and `find_layouts` take it.

    Args:
        path: its path below the teacher.
        module: the module.
        shape: of its output for one image, its axes in their order.
        width: number of channels, D after global pooling.
        places: how many places of a map, or tokens, each channel has for the largest image that was looked at.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    width: int
    places: int


def find_taps(module: nn.Module, image: Tensor) -> list[Tap]:
    """Find all modules that can be tapped, in the order in which they end, by running ``module`` on an image (C, H, W).

    They run exactly once and give one real tensor, whose batch and channel axes are clear. On torch's meta device this
    takes no memory and computes nothing.

    Example:
        >>> [(tap.path, tap.width) for tap in find_taps(resnet18, torch.rand(3, 224, 224))][-3:]
        [('layer4', 512), ('avgpool', 512), ('fc', 1000)]

    Raises:
        Exception: whatever ``module`` raises for images of this size.
    """
    first = observe(module, image.expand(LOOKS[0], -1, -1, -1))
    second = observe_larger(module, image) or observe(module, image.expand(LOOKS[1], -1, -1, -1))
    found = []
    for path, outputs in first.items():
        if path and len(outputs) == len(second.get(path, [])) == 1:
            with suppress(UserError):  # its output has no layout
                layout = layout_of(path, module, first, second)
                shape, larger = tuple(outputs[0].shape), second[path][0].shape
                places = math.prod(length for axis, length in enumerate(larger) if axis not in layout)
                one = tuple(length for axis, length in enumerate(shape) if axis != layout.batch)
                found.append(Tap(path, module.get_submodule(path), one, shape[layout.channel], places))
    return found


def last_stages(taps: Sequence[Tap]) -> tuple[str, ...]:
    """The paths of the last three stages, shallow to deep; empty where a teacher has no three.

    A stage is all that gives maps of one size, and its last part is tapped. The parts are the modules that lie beside
    each other, poolings left out, in the first module that has parts of three sizes, on the way from the teacher into
    whatever holds most of it. Where the size stays, as a transformer's number of tokens does, every block is a stage.

    Example:
        >>> last_stages(find_taps(resnet50, torch.rand(3, 224, 224)))
        ('layer2', 'layer3', 'layer4')
        >>> last_stages(find_taps(vit_b_16, torch.rand(3, 224, 224)))[-1]
        'encoder.layers.encoder_layer_11'
    """
    trunk = list(_trunk(taps))
    for divide in (_by_size, _blocks):
        for parts in trunk:
            if len(stages := divide(parts)) >= COUNT:
                return tuple(tap.path for tap in stages[-COUNT:])
    return ()


def _trunk(taps: Sequence[Tap]) -> Iterator[list[Tap]]:
    """The parts of the teacher that give maps, then those of the part that holds most of it, and so on."""
    parent, inside = "", [*taps]
    while True:
        beside = [tap for tap in inside if "." not in tap.path[len(parent) :]]
        yield [tap for tap in beside if tap.places > 1 and not isinstance(tap.module, POOLS)]
        names = Counter(tap.path[len(parent) :].partition(".")[0] for tap in inside)
        largest = max(names, key=lambda name: names[name], default="")
        parent = f"{parent}{largest}."
        inside = [tap for tap in inside if tap.path.startswith(parent)]
        if 2 * len(inside) <= len(taps):
            return


def _by_size(parts: list[Tap]) -> list[Tap]:
    """The last part of each size; sizes only fall, so that a branch of smaller maps is no stage."""
    ends: list[Tap] = []
    for tap in reversed(parts):
        if not ends or tap.places > ends[0].places:
            ends.insert(0, tap)
    return ends


def _blocks(parts: list[Tap]) -> list[Tap]:
    """The parts of the commonest type among those that are made of others."""
    blocks = [tap for tap in parts if any(tap.module.children())]
    commonest = Counter(type(tap.module) for tap in blocks).most_common(1)
    return [tap for tap in blocks if type(tap.module) is commonest[0][0]]
