"""Images of iterated function systems, a pure function of (split, class, sample).

Formula-driven supervised learning: Kataoka et al., "Pre-training without Natural Images" (arXiv:2101.08515) for the
idea; Anderson & Farrell, "Improving Fractal Pre-training" (arXiv:2110.03091) for how a system is drawn, by its singular
values. Every random number is a hash of what it is for, so an image does not depend on which batch asked for it, and
rendering keeps no state and no files. Always rendered on the CPU: the same images whatever device trains on them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kvbench.core.numerics import default_numerics
from kvbench.data.base import IMAGENET_MEAN, IMAGENET_STD, SPLITS

VERSION = 1  # raise it when a change alters any pixel: banks are keyed by it
MAX_MAPS = 4  # affine maps of one system: 2 to 4
CANDIDATES = 64  # draws of a system's singular values; the first usable one is taken
CHAINS, BURN_IN, STEPS = 192, 10, 24  # points of one image: CHAINS * STEPS


@dataclass(frozen=True)
class Rendering:
    """How much the samples of one class differ.

    ``wobble`` is the largest relative change of a map's coefficients, ``turn`` the largest rotation in radians,
    ``zoom`` and ``shift`` the largest relative change of size and of position (in half image widths).
    """

    wobble: float = 0.3
    turn: float = 0.5
    zoom: float = 0.25
    shift: float = 0.2


def mix(*keys: Tensor | int) -> Tensor:
    """Hash integer keys (broadcast together) to integers in [0, 2**32).

    The finalizer is ``lowbias32`` (Chris Wellons, "Prospecting for Hash Functions", 2018), applied after each key.
    """
    state = torch.as_tensor(0x9E3779B9)
    for key in keys:
        state = (state + key) & 0xFFFFFFFF
        state = ((state ^ (state >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        state = ((state ^ (state >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        state = state ^ (state >> 16)
    return state


def uniform(*keys: Tensor | int) -> Tensor:
    """Hash integer keys to float32 numbers in [0, 1), from the upper 24 bits so that the conversion is exact."""
    return (mix(*keys) >> 8).to(torch.float32) * 2.0**-24


def rotation(angle: Tensor) -> Tensor:
    """Rotation matrices of ``angle`` (...) in radians: (..., 2, 2)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


@functools.cache
def systems(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one iterated function system a class.

    Returns the maps' matrices (K, MAX_MAPS, 2, 2) and offsets (K, MAX_MAPS, 2), scaled so that each attractor has mean
    0 and root mean square radius 1, and the cumulative probabilities of choosing a map (K, MAX_MAPS).
    """
    k = torch.arange(classes)
    maps = 2 + mix(k, 1) % (MAX_MAPS - 1)
    used = torch.arange(MAX_MAPS) < maps[:, None]
    # Anderson & Farrell: a system fills the plane well when its singular values add up to about (5.5 + maps) / 2, the
    # smaller of each pair counted twice. Draw freely, scale to that sum, take the first draw that still contracts.
    draw, j = torch.arange(CANDIDATES)[None, :, None], torch.arange(MAX_MAPS)
    first, second = uniform(k[:, None, None], 2, draw, j), uniform(k[:, None, None], 3, draw, j)
    large, small = torch.maximum(first, second), torch.minimum(first, second)
    total = ((large + 2 * small) * used[:, None]).sum(-1)
    scale = (5 + uniform(k, 4) + maps)[:, None] / 2 / total
    largest = scale * (large * used[:, None]).amax(-1)
    chosen = (largest < 0.95).float().argmax(1)  # draw 0 where none contracts; the clamp below mends it
    pick = chosen[:, None, None].expand(-1, 1, MAX_MAPS)
    by = scale.gather(1, chosen[:, None])
    values = torch.stack([large.gather(1, pick)[:, 0] * by, small.gather(1, pick)[:, 0] * by], -1).clamp(max=0.95)
    signs = torch.where(uniform(k[:, None, None], 5, j[:, None], torch.arange(2)) < 0.5, -1.0, 1.0)
    turn = rotation(2 * math.pi * uniform(k[:, None], 6, j)) @ torch.diag_embed(values * signs)
    matrices = turn @ rotation(2 * math.pi * uniform(k[:, None], 7, j))
    offsets = 2 * uniform(k[:, None, None], 8, j[:, None], torch.arange(2)) - 1
    area = (values.prod(-1) + 0.02) * used
    cumulative = (area / area.sum(1, keepdim=True)).cumsum(1)
    points = chaos_game(matrices, offsets, cumulative, k, chains=CHAINS, steps=4 * STEPS)
    mean = points.mean(1)
    radius = (points - mean[:, None]).square().sum(-1).mean(1).sqrt().clamp(min=1e-3)
    # In coordinates z = (x - mean) / radius the map x -> A x + b becomes z -> A z + (A mean + b - mean) / radius.
    shifted = torch.einsum("kmij,kj->kmi", matrices, mean) + offsets - mean[:, None]
    return matrices, shifted / radius[:, None, None], cumulative


def chaos_game(
    matrices: Tensor, offsets: Tensor, cumulative: Tensor, key: Tensor, chains: int = CHAINS, steps: int = STEPS
) -> Tensor:
    """Run the chaos game for B systems at once; returns points (B, chains * steps, 2), the burn-in left out.

    ``key`` (B,) seeds each system's choices of maps.
    """
    batch = matrices.shape[0]
    flat = torch.cat([matrices.flatten(-2), offsets], -1).reshape(batch * MAX_MAPS, 6)
    row = torch.arange(batch)[:, None] * MAX_MAPS
    base = mix(key, 9)[:, None]
    x = torch.zeros(batch, chains)
    y = torch.zeros(batch, chains)
    kept = []
    for step in range(BURN_IN + steps):
        chance = uniform(base, torch.arange(chains) + step * chains)
        choice = (chance[..., None] >= cumulative[:, None, :-1]).sum(-1)
        a, b, c, d, e, f = flat[(row + choice).flatten()].reshape(batch, chains, 6).unbind(-1)
        x, y = a * x + b * y + e, c * x + d * y + f
        if step >= BURN_IN:
            kept.append(torch.stack([x, y], -1))
    return torch.cat(kept, 1)


def render(split: str, labels: Tensor, samples: Tensor, classes: int, size: int, how: Rendering) -> Tensor:
    """Render image ``samples[i]`` of class ``labels[i]``: float32 (B, 3, size, size) in [0, 1]."""
    batch = len(labels)
    key = mix(SPLITS.index(split), labels, samples)
    matrices, offsets, cumulative = (part[labels] for part in systems(classes))
    cell = torch.arange(MAX_MAPS * 6).reshape(MAX_MAPS, 6)
    wobble = 1 + how.wobble * (2 * uniform(key[:, None, None], 10, cell) - 1)
    matrices = matrices * wobble[..., :4].reshape(batch, MAX_MAPS, 2, 2)
    # A wobbled map could stop contracting: keep every matrix's Frobenius norm, a bound on its gain, where it was safe.
    norm = matrices.flatten(-2).norm(dim=-1).clamp(min=1e-6)
    matrices = matrices * (1.3 / norm).clamp(max=1)[..., None, None]
    offsets = offsets * wobble[..., 4:]
    points = chaos_game(matrices, offsets, cumulative, key)
    view = rotation(how.turn * (2 * uniform(key, 11) - 1))
    zoom = (1 + how.zoom * (2 * uniform(key, 12) - 1)) / 2.2
    shift = how.shift * (2 * uniform(key[:, None], 13, torch.arange(2)) - 1)
    points = (points @ view.transpose(1, 2)) * zoom[:, None, None] + shift[:, None]
    pixel = ((points + 1) * (size / 2)).floor()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    cells = torch.arange(batch)[:, None] * size * size + (pixel[..., 1] * size + pixel[..., 0]).clamp(
        0, size * size - 1
    )
    counts = torch.bincount(cells[inside].long(), minlength=batch * size * size)
    density = torch.log1p(counts.reshape(batch, 1, size, size).float())
    density = density / density.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    channel = torch.arange(3)
    back = 0.5 * uniform(key[:, None], 14, channel)[..., None, None]
    ink = 0.4 + 0.6 * uniform(key[:, None], 15, channel)[..., None, None]
    return back + density * (ink - back)


class FractalImages:
    """One split of the generated images (`Images`): image i is sample ``i // K`` of class ``i % K``."""

    def __init__(self, split: str, count: int, *, classes: int = 1000, size: int = 64, how: Rendering | None = None):
        self.split, self.size, self.how = split, size, how or Rendering()
        self.classes = tuple(f"ifs{k:04d}" for k in range(classes))
        self.labels = torch.arange(count, device="cpu") % classes

    def __len__(self) -> int:
        return len(self.labels)

    @default_numerics()
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices, dtype=torch.int64)
        labels = self.labels[index]
        k = len(self.classes)
        images = render(self.split, labels, index // k, k, self.size, self.how)
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std, labels

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides every pixel."""
        return {
            "images": "fractals",
            "version": VERSION,
            "split": self.split,
            "count": len(self),
            "classes": len(self.classes),
            "size": self.size,
            "rendering": asdict(self.how),
        }

    @property
    def mtime_digest(self) -> str:
        """Nothing can change but what the fingerprint holds."""
        return ""
