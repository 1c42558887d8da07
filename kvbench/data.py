"""Data sets: what a split of images is, and photographs in folders (the generated images are in `fractals`)."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder, ImageNet
from torchvision.transforms import v2

from kvbench.errors import UserError

SPLITS: Final = ("train", "val")
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
MAX_WORKERS: Final = 16  # the source's number of loader processes

Samples = list[tuple[str, int]]  # (path, class index)


class Images(Protocol):
    """One split of a data set, read in batches.

    ``__getitems__`` takes indices and returns normalised images (B, 3, size, size) float32 and class indices (B,).
    ``fingerprint`` holds what decides the pixels, JSON-serialisable and the same on every machine; ``stamp`` changes
    where files of the same name and size were written again.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    @property
    def stamp(self) -> str: ...


@dataclass(frozen=True)
class PhotoImages:
    """Photographs from files: resized so that the shorter side is ``size`` pixels, centre-cropped, normalised."""

    samples: Sequence[tuple[str, int]]
    classes: tuple[str, ...]
    size: int
    root: Path = field(default=Path())

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images = torch.stack([self._read(Path(self.samples[i][0])) for i in indices])
        return images, torch.tensor([self.samples[i][1] for i in indices])

    def _read(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                # A palette whose colours are transparent goes through RGBA: straight to RGB, Pillow warns.
                photo = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"Cannot read the image {path}: {error}. Mend or remove the file.") from error
        pixels: Tensor = photo_transform(self.size)(photo)
        return pixels

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Relative paths, classes and sizes of all files, and the transform: the same for a copy elsewhere."""
        return {
            "images": "files",
            "count": len(self),
            "classes": len(self.classes),
            "listing": self._digest(lambda stat: stat.st_size),
            "transform": f"resize {self.size}, centre crop {self.size}, ImageNet mean and std",
        }

    @property
    def stamp(self) -> str:
        """Times of change of all files: a bank is made again when a file was written since."""
        return self._digest(lambda stat: stat.st_mtime_ns)

    def _digest(self, fact: Callable[[os.stat_result], int]) -> str:
        digest = hashlib.sha256()
        for path, label in self.samples:
            try:
                value = fact(Path(path).stat())
            except OSError as error:
                raise UserError(f"Cannot read the image {path}: {error.strerror}.") from error
            name = Path(os.path.relpath(path, self.root)).as_posix()
            digest.update(f"{name}\0{label}\0{value}\n".encode())
        return digest.hexdigest()


def photo_transform(size: int) -> v2.Compose:
    """PIL image -> normalised (3, size, size) float32."""
    return v2.Compose(
        [
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def need_folder(root: Path | None, workload: str, layout: str) -> Path:
    """Return ``root`` if it is a folder; raise a `UserError` that tells the expected ``layout`` otherwise."""
    if root is None:
        raise UserError(f"Workload {workload} reads images from a folder ({layout}): name it with --kvbench-root DIR.")
    if not root.is_dir():
        raise UserError(f"No folder {root}: workload {workload} expects {layout} there.")
    return root


def image_folder(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List an ImageFolder ``root/<split>/<class>/**``; returns samples and class names, both sorted."""
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"No folder {folder}: expected {root} to hold train/ and val/, each with a folder a class.")
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"No images in {folder}: {error}") from error
    return found.samples, tuple(found.classes)


def tiny_imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List Tiny ImageNet in the layout of its official zip; returns samples and the 200 WordNet ids."""
    samples, classes = image_folder(root, "train")
    if split == "train":
        return samples, classes
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise UserError(f"No file {annotations}: expected the layout of the official tiny-imagenet-200.zip in {root}.")
    index = {name: i for i, name in enumerate(classes)}
    samples = []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in index:
            raise UserError(f"{annotations}, line {number}: {wnid!r} is no class folder of {root / 'train'}.")
        samples.append((str(root / "val" / "images" / name), index[wnid]))
    if not samples:
        raise UserError(f"No images are listed in {annotations}.")
    return samples, classes


def imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List ImageNet through torchvision (its archives or its unpacked folders); returns samples and WordNet ids."""
    try:
        found = ImageNet(str(root), split)
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"torchvision cannot open ImageNet ({split}) in {root}: {error}") from error
    return found.samples, tuple(found.wnids)


def subset(samples: Samples, count: int | None) -> Samples:
    """Choose ``count`` samples, the same ones every time: in the order of a fixed random permutation."""
    if count is None or count >= len(samples):
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return [samples[i] for i in sorted(order[:count].tolist())]


class _AsIs(torch.utils.data.Dataset[Tensor]):
    """Hands `Images` to a DataLoader, whose fetcher calls ``__getitems__`` once a batch.

    A `UserError` is handed over like a batch: raised in a worker, its sentence would arrive inside a traceback.
    """

    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | UserError:
        try:
            return self.images.__getitems__(indices)
        except UserError as error:
            return error


def _whole(batch: object) -> object:
    return batch  # a function of the module: where workers are spawned, it is pickled


def batches(
    images: Images, batch_size: int, order: Sequence[int] | None = None, workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in batches, in ``order`` (default: as they stand), decoded by ``workers`` processes.

    Default: the machine's processors for files, up to 16; none for generated images, whose rendering uses all threads.
    """
    if workers is None:
        workers = min(MAX_WORKERS, os.cpu_count() or 1) if isinstance(images, PhotoImages) else 0
    sampler = range(len(images)) if order is None else order
    loader: DataLoader[Any] = DataLoader(
        _AsIs(images), batch_size, sampler=sampler, num_workers=workers, collate_fn=_whole
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
