"""Folders of small photographs, in the layouts of data sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from kvbench.data.base import IMAGENET_MEAN, IMAGENET_STD
from kvbench.data.photos import PhotoImages

WNIDS = ("n01443537", "n01629819")


def draw(path: Path, colour: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def draw_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    """An ImageFolder with images of different colours."""
    for s, split in enumerate(("train", "val")):
        for k, name in enumerate(classes):
            for i in range(each):
                draw(root / split / name / f"{i}.png", (40 * i, 90 * k, 100 * s))
    return root


def draw_tiny_imagenet(root: Path) -> Path:
    for wnid in WNIDS:
        for i in range(2):
            draw(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
    for i in range(3):
        draw(root / "val" / "images" / f"val_{i}.JPEG")
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 2]}\t0\t32\t44\t62\n" for i in (1, 0, 2)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def draw_imagenet(root: Path) -> Path:
    """What torchvision leaves when it has unpacked ImageNet's archives."""
    for wnid in WNIDS:
        draw(root / "train" / wnid / f"{wnid}_1.JPEG")
        draw(root / "val" / wnid / "ILSVRC2012_val_00000001.JPEG")
    names = {WNIDS[0]: ("goldfish", "Carassius auratus"), WNIDS[1]: ("European fire salamander",)}
    torch.save((names, [WNIDS[0], WNIDS[1], WNIDS[0]]), root / "meta.bin")
    return root


def seen(path: Path, size: int) -> tuple[int, int, int]:
    """The middle pixel of an image as the teacher sees it, back in 0 to 255."""
    images = PhotoImages([(str(path), 0)], ("one",), size, path.parent).__getitems__([0])[0]
    red, green, blue = (
        round(255 * (float(value) * std + mean))
        for value, mean, std in zip(images[0, :, size // 2, size // 2], IMAGENET_MEAN, IMAGENET_STD, strict=True)
    )
    return red, green, blue


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights for a while, also where root runs the tests."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        Image.init()  # its modules may lie where nobody may read
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
