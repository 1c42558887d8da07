"""Augmentation of a teacher's training images, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from kvbench.features.train_teacher import augment


def numbered(batch: int = 64, side: int = 64) -> Tensor:
    """Images whose pixels tell their column (channel 0) and row (channel 1)."""
    column = torch.arange(float(side)).expand(side, side)
    return torch.stack([column, column.T]).expand(batch, 2, side, side).contiguous()


def test_augmentation_flips_and_shifts_within_reach_and_changes_nothing_else() -> None:
    images = numbered()
    moved = augment(images, torch.Generator().manual_seed(0))
    inner = moved[:, :, 8:-8, 8:-8]  # beyond the reflected border
    rows = torch.arange(8.0, 56)
    down = inner[:, 1, 0, 0] - 8
    assert torch.equal(inner[:, 1], (rows + down[:, None])[:, :, None].expand(64, 48, 48))
    flipped = inner[:, 0, 0, 0] > inner[:, 0, 0, 1]
    column = torch.where(flipped[:, None], 63 - rows, rows)
    right = inner[:, 0, 0, 0] - column[:, 0]
    assert torch.equal(inner[:, 0], (column + right[:, None])[:, None].expand(64, 48, 48))
    assert 16 < int(flipped.sum()) < 48
    assert bool((down.abs() != right.abs()).any()), "down and to the side are drawn apart"
    for shift in (down, right):
        assert set(shift.tolist()) == {float(s) for s in range(-4, 5)}
    assert torch.equal(images, numbered()), "its input stays as it is"


def test_the_reach_is_a_sixteenth_of_the_side() -> None:
    for side, reach in ((32, 2), (8, 1)):
        down = augment(numbered(200, side), torch.Generator().manual_seed(0))[:, 1, side // 2, 0] - side // 2
        assert set(down.tolist()) == {float(s) for s in range(-reach, reach + 1)}


def test_augmentation_is_fixed_by_its_generator() -> None:
    one, same, other = (augment(numbered(), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
