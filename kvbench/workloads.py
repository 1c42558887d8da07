"""The WORKLOADS table: which data, which teacher, which scale. Rows only; torch is imported when a row is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvbench.core.recipe import Recipe, TeacherRecipe
from kvbench.utils.errors import unknown

if TYPE_CHECKING:
    from kvbench.data.base import Images

Opener = Callable[["Workload", str, "Path | None", "int | None"], "Images"]  # workload, split, root, count


def generated(classes: int = 1000) -> Opener:
    """Open fractals of ``classes`` classes."""

    def open_split(row: Workload, split: str, _root: Path | None, count: int | None) -> Images:
        from kvbench.data.fractals import FractalImages

        assert count is not None, "generated images have no natural number"
        return FractalImages(split, count, classes=classes, size=row.size)

    return open_split


def photographs(lister: str) -> Opener:
    """Open photographs in folders, listed by the function ``lister`` of `kvbench.data.layouts`."""

    def open_split(row: Workload, split: str, root: Path | None, count: int | None) -> Images:
        from kvbench.data import layouts as listing
        from kvbench.data.photos import PhotoImages

        folder = listing.need_folder(root, row.name, row.layout)
        samples, classes = getattr(listing, lister)(folder, split)
        return PhotoImages(listing.subset(samples, count), classes, row.size, folder)

    return open_split


@dataclass(frozen=True)
class Workload:
    """A data set with its teacher and the scale of the recipe.

    Args:
        size: side of an image in pixels.
        train_count, val_count: images that students see of each split; None: all.
        opener: opens a split of the data.
        teacher: ``shipped`` (weights in the package) or ``torchvision`` (its pretrained ones).
        layout: the folder layout expected under ``--kvbench-root``; empty: the images are generated.
        seeds: fresh seeds of a default run.
        differs: how the recipe differs from the source's, told to the reader of the tables.
    """

    name: str
    summary: str
    size: int
    train_count: int | None
    val_count: int | None
    recipe: Recipe
    opener: Opener
    teacher: str
    teacher_recipe: TeacherRecipe
    layout: str = ""
    arch: str = "resnet18"
    taps: tuple[str, ...] = ("layer3.1", "layer4.0", "layer4.1")
    seeds: int = 4
    differs: str = ""

    def images(self, split: str, root: Path | None, count: int | None) -> Images:
        """Open ``count`` images of a split (None: all); raises `UserError` where the data are not as they should be."""
        return self.opener(self, split, root, count)


WORKLOADS = {
    row.name: row
    for row in [
        Workload(
            "fractals",
            "generated images of 1000 iterated function systems, 64 pixels; nothing to download",
            size=64,
            train_count=4096,
            val_count=2048,
            recipe=Recipe(lr=1e-3),
            opener=generated(),
            teacher="shipped",
            teacher_recipe=TeacherRecipe(epochs=1, count=160_000),
            differs="4,096 training images instead of 1.28 million, so lr 1e-3 instead of 1e-4",
        ),
        Workload(
            "tiny-imagenet",
            "photographs of 200 ImageNet classes, 64 pixels",
            size=64,
            train_count=16_384,
            val_count=10_000,
            recipe=Recipe(lr=3e-3),
            opener=photographs("tiny_imagenet"),
            teacher="shipped",
            teacher_recipe=TeacherRecipe(epochs=6, augment=True),
            layout="the unpacked tiny-imagenet-200.zip, with train/<wnid>/images/ and val/val_annotations.txt",
            differs="16,384 training images of 200 classes instead of 1.28 million of 1000, so lr 3e-3 instead of 1e-4",
        ),
        Workload(
            "imagenet",
            "torchvision's ImageNet folder at 256 pixels: the source's recipe",
            size=256,
            train_count=None,
            val_count=None,
            recipe=Recipe(),
            opener=photographs("imagenet"),
            teacher="torchvision",
            teacher_recipe=TeacherRecipe(epochs=16, augment=True),
            layout="torchvision's ImageNet layout, with train/<wnid>/ and val/<wnid>/ or the official archives",
            seeds=1,
        ),
        Workload(
            "folder",
            "your own images in train/<class>/ and val/<class>/, with any torchvision classifier or a checkpoint",
            size=224,
            train_count=None,
            val_count=None,
            recipe=Recipe(lr=1e-3),
            opener=photographs("image_folder"),
            teacher="torchvision",
            teacher_recipe=TeacherRecipe(epochs=10, augment=True),
            layout="train/<class>/ and val/<class>/ with the same classes",
            differs="lr 1e-3 instead of 1e-4, for folders smaller than ImageNet",
        ),
    ]
}


def workload(name: str) -> Workload:
    """Look a workload up; raises `UserError` naming the valid ones."""
    if name not in WORKLOADS:
        raise unknown("workload", name, WORKLOADS)
    return WORKLOADS[name]
