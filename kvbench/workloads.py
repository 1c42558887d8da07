"""The WORKLOADS table: which data, which teacher, which scale. Rows only; torch is imported when a row is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvbench.core.recipe import TeacherRecipe
from kvbench.utils.errors import UserError, describe, raised_at, unknown

if TYPE_CHECKING:
    from torch import nn

    from kvbench.data.base import Images, Transform
    from kvbench.data.layouts import Samples

LARGEST_SIZE = 4096  # pixels of a side
Opener = Callable[["Workload", str, "Path | None", "int | None"], "Images"]  # workload, split, root, count


def generated(classes: int) -> Opener:
    """Open fractals of ``classes`` classes."""

    def open_split(row: Workload, split: str, _root: Path | None, count: int | None) -> Images:
        from kvbench.data.fractals import FractalImages

        if count is None:
            raise UserError(f"The images of {row.name} are generated: choose how many, such as train_count=4096.")
        return FractalImages(split, count, classes=classes, size=row.size)

    return open_split


def tiny_imagenet(row: Workload, split: str, root: Path | None, count: int | None) -> Images:
    """Open Tiny ImageNet in the layout of its official zip."""
    from kvbench.data.layouts import tiny_imagenet

    return _photographs(tiny_imagenet, row, split, root, count)


def imagenet(row: Workload, split: str, root: Path | None, count: int | None) -> Images:
    """Open ImageNet in torchvision's layout."""
    from kvbench.data.layouts import imagenet

    return _photographs(imagenet, row, split, root, count)


def image_folder(row: Workload, split: str, root: Path | None, count: int | None) -> Images:
    """Open images in a folder for each class."""
    from kvbench.data.layouts import image_folder

    return _photographs(image_folder, row, split, root, count)


def _photographs(
    lister: Callable[[Path, str], tuple[Samples, tuple[str, ...]]],
    row: Workload,
    split: str,
    root: Path | None,
    count: int | None,
) -> Images:
    from kvbench.data.layouts import need_folder, subset
    from kvbench.data.photos import PhotoImages

    folder = need_folder(root, row.name, row.layout)
    samples, classes = lister(folder, split)
    return PhotoImages(subset(samples, count), classes, row.size, folder, row.transform)


@dataclass(frozen=True)
class Workload:
    """A data set with its teacher: a row of `WORKLOADS`.

    A row and a reference are all that a new workload needs.

    Args:
        name: as in ``--kvbench-workload``.
        summary: what the images are, in a line.
        size: side of an image in pixels.
        train_count, val_count: images that students see of each split; None: all.
        opener: opens a split of the data: of this row, a split (``train`` or ``val``), a root and a number of images.
        teacher: ``shipped`` (weights in the package) or ``torchvision`` (the pretrained ones of ``arch``).
        teacher_recipe: how ``kvbench teacher train`` trains one.
        layout: the folder layout expected under ``--kvbench-root``; empty: the images are generated.
        arch: the teacher's architecture: a torchvision model's name, ``timm:NAME``, ``package.module:function``, or a
            function from the number of classes to a module, with the weights that it is to have.
        taps: module paths of the teacher, shallow to deep; empty: its last three stages, or ResNet18's last blocks.
        seeds: fresh seeds of a default run.
        transform: how photographs are prepared; None: as the teacher's pretrained weights need it, where these are
            used, and else resized to ``size`` and normalized by ImageNet's mean and std.

    Example:
        >>> from dataclasses import replace
        >>> WORKLOADS["few"] = replace(WORKLOADS["fractals"], name="few", train_count=512, val_count=256)
        >>> WORKLOADS["few"].images("val", root=None, count=256).classes[:2]
        ('ifs0000', 'ifs0001')
    """

    name: str
    summary: str
    size: int
    train_count: int | None
    val_count: int | None
    opener: Opener
    teacher: str
    teacher_recipe: TeacherRecipe
    layout: str = ""
    arch: str | Callable[[int], nn.Module] = "resnet18"
    taps: tuple[str, ...] = ()
    seeds: int = 4
    transform: Transform | None = None

    @classmethod
    def without_images(cls, name: str) -> Workload:
        """A workload that is a name alone, of a study that trains without a teacher."""

        def opener(*_: object) -> Images:
            raise UserError(f"The workload {name} has no images: its study trains without a teacher.")

        return cls(name, "no images: the study trains without a teacher", 1, None, None, opener, "", TeacherRecipe(1))

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and 1 <= self.size <= LARGEST_SIZE):
            raise UserError(f"Images of {self.size!r} pixels a side: valid is a number from 1 to {LARGEST_SIZE}.")
        for name, count in (("train_count", self.train_count), ("val_count", self.val_count)):
            if not (count is None or (isinstance(count, int) and count >= 1)):
                raise UserError(f"{self.name} has {name} {count!r}: valid is a number from 1, or none for all images.")

    def images(self, split: str, root: Path | None, count: int | None) -> Images:
        """Open ``count`` images of a split (None: all); raises `UserError` where the data are not as they should be."""
        try:
            return self.opener(self, split, root, count)
        except UserError:
            raise
        except Exception as error:  # of someone's own opener
            raise UserError(
                f"The opener of the workload {self.name} fails for the {split} split: {describe(error)}"
                f" ({raised_at(error)})."
            ) from error


WORKLOADS = {
    row.name: row
    for row in [
        Workload(
            "fractals",
            "generated images of 200 iterated function systems, 64 pixels; nothing to download",
            size=64,
            train_count=6144,
            val_count=2048,
            opener=generated(200),
            teacher="shipped",
            teacher_recipe=TeacherRecipe(epochs=1, count=96_000, weight_decay=5e-3),
            seeds=5,
        ),
        Workload(
            "tiny-imagenet",
            "photographs of 200 ImageNet classes, 64 pixels",
            size=64,
            train_count=16_384,
            val_count=10_000,
            opener=tiny_imagenet,
            teacher="shipped",
            teacher_recipe=TeacherRecipe(epochs=6, augment=True),
            layout="the unpacked tiny-imagenet-200.zip, with train/<wnid>/images/ and val/val_annotations.txt",
        ),
        Workload(
            "imagenet",
            "torchvision's ImageNet folder at 256 pixels: the source's recipe",
            size=256,
            train_count=None,
            val_count=None,
            opener=imagenet,
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
            opener=image_folder,
            teacher="torchvision",
            teacher_recipe=TeacherRecipe(epochs=10, augment=True),
            layout="train/<class>/ and val/<class>/ with the same classes",
        ),
    ]
}


DEFAULT = "fractals"  # where neither a study nor an option names one


def workload(name: str) -> Workload:
    """Look a workload up; raises `UserError` naming the valid ones."""
    if name not in WORKLOADS:
        raise unknown("workload", name, WORKLOADS)
    return WORKLOADS[name]
