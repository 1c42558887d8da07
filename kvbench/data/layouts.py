"""Listing photographs in folders: layouts of data sets, as samples and classes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torchvision.datasets import ImageNet
from torchvision.datasets.folder import IMG_EXTENSIONS

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import read_bytes
from kvbench.utils.text import shown

Samples = list[tuple[str, int]]  # (path, class index)


def need_folder(root: Path | None, workload: str, layout: str) -> Path:
    """Return ``root`` if it is a folder; raise a `UserError` that tells the expected ``layout`` otherwise."""
    if root is None:
        raise UserError(f"Workload {workload} reads images from a folder ({layout}): name it with --kvbench-root DIR.")
    if not root.is_dir():
        raise UserError(f"No folder {shown(root)}: workload {workload} expects {layout} there.")
    return root


def image_folder(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List ``root/<split>/<class>/**``; returns samples and class names, both sorted.

    Files are images by torchvision's list of suffixes, in any case. What starts with a dot is left out.

    Raises:
        UserError: there is no such folder, no class, a class without images, or a folder that cannot be listed.
    """
    folder = root / split
    if not folder.is_dir():
        raise UserError(
            f"No folder {shown(folder)}: expected {shown(root)} to hold train/ and val/, each with a folder a class."
        )
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _hidden(entry.name))
    except OSError as error:
        raise _unlistable(error) from error
    if not found:
        raise UserError(f"No images in {shown(folder)}: expected a folder a class, with images in each.")
    samples = [(path, k) for k, name in enumerate(found) for path in _files(str(folder / name))]
    filled = {label for _, label in samples}
    if empty := [name for k, name in enumerate(found) if k not in filled]:
        raise UserError(
            f"No images in {shown(folder)} for {'a class' if len(empty) == 1 else f'{len(empty):,} classes'}:"
            f" {shorten(empty)}. Valid suffixes: {', '.join(IMG_EXTENSIONS)}."
        )
    return samples, tuple(found)


def _hidden(name: str) -> bool:
    return name.startswith(".")  # folders of tools, and what some systems put beside every file


def _unlistable(error: OSError) -> UserError:
    return UserError(f"Cannot list the folder {shown(error.filename)}: {error.strerror}.")


def _files(top: str) -> list[str]:
    """All image files below ``top``, sorted folder by folder; links to folders are followed, but in no circle."""

    def stop(error: OSError) -> None:
        raise _unlistable(error)  # os.walk would pass over it, and its images be missed by nobody

    walked = []
    for folder, inner, names in os.walk(top, onerror=stop, followlinks=True):
        inner[:] = [name for name in inner if not _hidden(name)]
        for path in (os.path.join(folder, name) for name in inner):  # noqa: PTH118
            if os.path.islink(path) and _holds(path, folder):  # noqa: PTH114
                raise UserError(f"The link {shown(path)} leads to a folder that it lies in: remove it.")
        walked.append((folder, sorted(name for name in names if not _hidden(name))))
    return [
        os.path.join(folder, name)  # noqa: PTH118
        for folder, names in sorted(walked)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    ]


def _holds(path: str, folder: str) -> bool:
    outer, inner = Path(path).resolve(), Path(folder).resolve()
    return outer == inner or outer in inner.parents


def tiny_imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List Tiny ImageNet in the layout of its official zip; returns samples and the 200 WordNet ids."""
    samples, classes = image_folder(root, "train")
    if split == "train":
        return samples, classes
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise UserError(
            f"No file {shown(annotations)}: expected the layout of the official tiny-imagenet-200.zip in {shown(root)}."
        )
    text = read_bytes(annotations).decode(errors="surrogateescape")
    lines = text.replace("\r\n", "\n").split("\n")
    index = {name: i for i, name in enumerate(classes)}
    listed: dict[str, int] = {}
    samples = []
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        where = f"{shown(annotations)}, line {number}"
        if wnid not in index:
            raise UserError(f"{where}: {wnid!r} is no class folder of {shown(root / 'train')}.")
        if name in {"", ".", ".."} or Path(name).name != name:
            raise UserError(f"{where}: {name!r} is no name of a file in {shown(root / 'val' / 'images')}.")
        if listed.setdefault(name, number) != number:
            raise UserError(f"{where}: {name!r} is listed a second time, first in line {listed[name]}.")
        samples.append((str(root / "val" / "images" / name), index[wnid]))
    if not samples:
        raise UserError(f"No images are listed in {shown(annotations)}.")
    return samples, classes


def imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List ImageNet through torchvision (its archives or its unpacked folders); returns samples and WordNet ids."""
    try:
        found = ImageNet(str(root), split)
    except Exception as error:  # a damaged meta.bin meets torch's unpickler with almost any error
        told = f"torchvision cannot open ImageNet ({split}) in {shown(root)}: {shown(error) or type(error).__name__}"
        if not isinstance(error, OSError | RuntimeError):
            told += ". If meta.bin is damaged, remove it: torchvision makes it again from the devkit's archive."
        raise UserError(told) from error
    return found.samples, tuple(found.wnids)


def subset(samples: Samples, count: int | None) -> Samples:
    """Choose ``count`` samples, the same ones every time: in the order of a fixed random permutation."""
    if count is None or count >= len(samples):
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return [samples[i] for i in sorted(order[:count].tolist())]
