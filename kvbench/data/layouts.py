"""Listing photographs in folders: layouts of data sets, as samples and classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from torchvision.datasets import ImageNet
from torchvision.datasets.folder import IMG_EXTENSIONS

from kvbench.utils.errors import UserError, shorten
from kvbench.utils.files import read_bytes
from kvbench.utils.text import shown

Samples = list[tuple[str, int]]  # (path, class index)
# What systems and tools leave in folders beside what starts with a dot.
LITTER: Final = {"__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information",
                 "Thumbs.db", "desktop.ini", "__pycache__"}  # fmt: skip
SPLIT_NAMES: Final = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
TEST_NAMES: Final = ("test", "testing", "tests", "dev", "eval")
# Suffixes of files that nobody takes for images.
NO_IMAGES: Final = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".md", ".yaml", ".yml", ".html", ".ini", ".db",
                    ".log", ".mat", ".npy", ".npz", ".pkl", ".py", ".pdf", ".zip", ".lock"}  # fmt: skip
ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
FEW: Final = 5  # folders in which a split is looked for below
logger = logging.getLogger(__name__)


def need_folder(root: Path | None, workload: str, layout: str) -> Path:
    """Return ``root`` if it is a folder; raise a `UserError` that names the expected ``layout`` otherwise."""
    if root is None:
        raise UserError(f"Workload {workload} reads images from a folder ({layout}): name it with --kvbench-root DIR.")
    if root.is_file():
        raise UserError(f"{shown(root)} is a file: unpack it, and name the folder, which holds {layout}.")
    if not root.is_dir():
        raise UserError(f"No folder {shown(root)}: workload {workload} expects {layout} there.")
    return root


def image_folder(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List ``root/<split>/<class>/**``; returns samples and class names, both sorted.

    Files are images by torchvision's list of suffixes, in any case. What starts with a dot or is in `LITTER` is left
    out; other files that are passed over are counted in a warning. ``training``, ``valid`` and ``validation`` are taken
    for splits where they leave no doubt.

    Raises:
        UserError: there is no such folder, no class, a class without images, or a folder that cannot be listed.
    """
    return _class_folders(_split_folder(root, split))


def _class_folders(folder: Path, leave_out: str = "") -> tuple[Samples, tuple[str, ...]]:
    """List ``folder/<class>/**``, as `image_folder` does, without the folder ``leave_out``."""
    names, files = _entries(folder)
    names = [name for name in names if name != leave_out]
    stray = sum(name.lower().endswith(IMG_EXTENSIONS) for name in files)
    if not names:
        found = f": {stray:,} images lie in it, put them into one folder for each class" if stray else ""
        raise UserError(f"No images in {shown(folder)} in folders of classes: expected one for each class{found}.")
    if stray:
        logger.warning("%s: %s images lie beside the class folders and are passed over.", shown(folder), f"{stray:,}")
    samples: Samples = []
    passed_over: dict[str, Counter[str]] = {}
    empty = []
    for k, name in enumerate(names):
        paths, others = _files(str(folder / name))
        samples += [(path, k) for path in paths]
        passed_over[name] = others
        if not paths:
            empty.append(name)
    if empty:
        there = sum((passed_over[name] for name in empty), Counter[str]())
        raise UserError(
            f"No images in {shown(folder)} for {'a class' if len(empty) == 1 else f'{len(empty):,} classes'}:"
            f" {shorten(empty)}. Valid suffixes: {', '.join(IMG_EXTENSIONS)}"
            f"{f'; found are {_suffixes(there)}' if there else ''}. Add images, or remove what is no class."
        )
    total = sum(passed_over.values(), Counter[str]())
    if total:
        worst = max(names, key=lambda name: passed_over[name].total())
        count = passed_over[worst].total()
        of = count + sum(names[k] == worst for _, k in samples)
        logger.warning(
            "%s: %s of %s files are passed over for their suffixes (%s), in %s %s of %s. Images are: %s.",
            shown(folder), f"{total.total():,}", f"{total.total() + len(samples):,}", _suffixes(total), shown(worst),
            f"{count:,}", f"{of:,}", ", ".join(IMG_EXTENSIONS),
        )  # fmt: skip
    return samples, tuple(names)


def _suffixes(counts: Counter[str]) -> str:
    return ", ".join(f"{shown(suffix) or 'no suffix'}: {n:,}" for suffix, n in counts.most_common(5))


def _split_folder(root: Path, split: str) -> Path:
    """The folder of a split, also under another usual name where there is one only."""
    if (root / split).is_dir():
        return root / split
    there, files = _entries(root)
    named = [name for name in there if name.lower() in SPLIT_NAMES[split]]
    if len(named) == 1:
        return root / named[0]
    instead = _where_instead(root, split, there, named) if there else _without_folders(root, files)
    raise UserError(
        f"No folder {shown(root / split)}: expected {shown(root)} to hold train/ and val/, each with a folder for each"
        f" class; {instead}{'' if instead.endswith('?') else '.'}"
    )


def _where_instead(root: Path, split: str, there: Sequence[str], named: Sequence[str]) -> str:
    """What was found in ``root`` instead of a split's folder, and what to do."""
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    tests = [name for name in there if name.lower() in TEST_NAMES]
    inner = [name for name in there if any((root / name / one).is_dir() for one in splits)]
    similar = [name for name in there if split in name.lower() and name not in tests]
    found = f"found {shorten(there)}"
    if similar and not named:
        found += f": if {shown(similar[0])} is it, rename it to {split}"
    elif split == "val" and tests and not named:
        found += f": to validate on {shown(tests[0])}, rename it to val or link it (ln -s {shown(tests[0])} val)"
    elif named:
        found += f": rename the right one to {split}"
    elif len(inner) > 1:
        found += f": move {shown(inner[0])}/{split} to {split}/{shown(inner[0])}, and so on"
    elif outer := _around(root):
        found += f": did you mean --kvbench-root {shown(outer)}?"
    elif {name.lower() for name in there} & splits:
        found += f": split some images of each class off into {split}"
    else:
        found += ": if these are classes, move them into train, and some images of each into val"
    return found


def _around(root: Path) -> Path | None:
    """A folder near ``root`` that holds a folder for training: above a split or one of its classes, or inside."""
    names, inside = SPLIT_NAMES["train"], {name for names in SPLIT_NAMES.values() for name in names}
    near = [*root.parents][:2] if {root.name.lower(), root.parent.name.lower()} & inside else []
    deep = 3 if len(_entries(root)[0]) <= FEW else 1  # a thousand classes with a thousand images would take long
    near += [path.parent for depth in range(1, deep + 1) for name in names for path in root.glob("*/" * depth + name)]
    seen = (folder for folder in near if not any(map(_hidden, folder.parts[len(root.parts) :])))
    return next((folder for folder in seen if any((folder / name).is_dir() for name in names)), None)


def _without_folders(root: Path, files: Sequence[str]) -> str:
    """What lies in a folder that holds no folder, and what to do."""
    archives = [name for name in files if name.lower().endswith(ARCHIVES)]
    images = sum(name.lower().endswith(IMG_EXTENSIONS) for name in files)
    if archives:
        return f"found {shorten(archives)}: unpack it"
    if outer := _around(root):
        return f"did you mean --kvbench-root {shown(outer)}?"
    return f"found {images:,} images: put them into such folders" if images else "found no folder in it"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _unlistable(error: OSError) -> UserError:
    return UserError(f"Cannot list the folder {shown(error.filename)}: {error.strerror}.")


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in ``folder``, sorted."""
    names: list[str] = []
    files: list[str] = []
    try:
        for entry in [*os.scandir(folder)]:
            if _hidden(entry.name):
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                raise UserError(f"The link {shown(entry.path)} leads to nothing: correct or remove it.")
            (names if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise _unlistable(error) from error
    return sorted(names), sorted(files)


def _files(top: str) -> tuple[list[str], Counter[str]]:
    """All image files below ``top``, sorted folder by folder, and the suffixes of what else may be an image.

    Links to folders are followed, but in no circle.
    """

    def stop(error: OSError) -> None:
        raise _unlistable(error)  # os.walk would pass over it, and its images be missed by nobody

    walked = []
    for folder, inner, names in os.walk(top, onerror=stop, followlinks=True):
        inner[:] = [name for name in inner if not _hidden(name)]
        for path in (os.path.join(folder, name) for name in inner):  # noqa: PTH118
            if os.path.islink(path) and _holds(path, folder):  # noqa: PTH114
                raise UserError(f"The link {shown(path)} leads to a folder that it lies in: remove it.")
        walked.append((folder, sorted(name for name in names if not _hidden(name))))
    images, others = [], Counter[str]()
    for folder, names in sorted(walked):
        for name in names:
            if name.lower().endswith(IMG_EXTENSIONS):
                images.append(os.path.join(folder, name))  # noqa: PTH118
            elif (suffix := os.path.splitext(name)[1].lower()) not in NO_IMAGES:  # noqa: PTH122
                others[suffix] += 1
    return images, others


def _holds(path: str, folder: str) -> bool:
    outer, inner = Path(path).resolve(), Path(folder).resolve()
    return outer == inner or outer in inner.parents


def tiny_imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List Tiny ImageNet in the layout of its official zip; returns samples and the 200 WordNet ids.

    ``val`` may be reorganized into a folder for each class instead.
    """
    if split == "train":
        return image_folder(root, "train")
    classes = tuple(_entries(_split_folder(root, "train"))[0])
    val = _split_folder(root, "val")
    annotations = val / "val_annotations.txt"
    folders = _entries(val)[0]
    if {*folders} & {*classes} and not ("images" in folders and any((val / "images").iterdir())):
        return _class_folders(val, "images")
    if annotations.is_file():
        return _annotated(annotations, classes), classes
    raise UserError(
        f"No file {shown(annotations)}: expected the layout of the official tiny-imagenet-200.zip in {shown(root)}, or"
        " val/ with a folder for each class."
    )


def _annotated(annotations: Path, classes: Iterable[str]) -> Samples:
    """The samples that Tiny ImageNet's ``val_annotations.txt`` lists."""
    text = read_bytes(annotations).decode(errors="surrogateescape")
    lines = text.replace("\r\n", "\n").split("\n")
    index = {name: i for i, name in enumerate(classes)}
    listed: dict[str, int] = {}
    samples = []
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        where = f"{shown(annotations)}, line {number}"
        if wnid not in index:
            raise UserError(f"{where}: {wnid!r} is no class folder of {shown(annotations.parents[1] / 'train')}.")
        if name in {"", ".", ".."} or Path(name).name != name:
            raise UserError(f"{where}: {name!r} is no name of a file in {shown(annotations.parent / 'images')}.")
        if listed.setdefault(name, number) != number:
            raise UserError(f"{where}: {name!r} is listed a second time, first in line {listed[name]}.")
        samples.append((str(annotations.parent / "images" / name), index[wnid]))
    if not samples:
        raise UserError(f"No images are listed in {shown(annotations)}.")
    return samples


def imagenet(root: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    """List ImageNet through torchvision (its archives or its unpacked folders); returns samples and WordNet ids."""
    try:
        found = ImageNet(str(root), split)
    except Exception as error:  # a damaged meta.bin meets torch's unpickler with almost any error
        reason = shown(error).rstrip(". ") or type(error).__name__
        message = f"torchvision cannot open ImageNet ({split}) in {shown(root)}: {reason}"
        if not (root / split).is_dir() and not any(root.glob("ILSVRC2012_*")):
            there = [entry.name for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name)]
            message += f"; {_where_instead(root, split, there, []) if there else _without_folders(root, [])}"
        elif isinstance(error, FileNotFoundError) and (root / split).is_dir():
            message += ": put the images of each class into a folder named by its WordNet id"
        elif not (root / "meta.bin").exists() and (root / split).is_dir():
            message += (
                ". What lists the classes is missing: put ILSVRC2012_devkit_t12.tar.gz beside train/ and val/, or take"
                " these folders as --kvbench-workload folder"
            )
        elif not isinstance(error, OSError | RuntimeError):
            message += ". If meta.bin is damaged, remove it: torchvision makes it again from the devkit's archive."
        raise UserError(message) from error
    return found.samples, tuple(found.wnids)


def subset(samples: Samples, count: int | None) -> Samples:
    """Choose ``count`` samples, the same ones every time: in the order of a fixed random permutation."""
    if count is None or count >= len(samples):
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0), device="cpu")
    return [samples[i] for i in sorted(order[:count].tolist())]
