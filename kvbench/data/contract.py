"""What every data set promises (`kvbench.data.base.Images`), checked wherever images are read."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvbench.data.base import SPLITS, Images
from kvbench.utils.errors import UserError, describe, raised_at, shorten
from kvbench.utils.oom import out_of_memory
from kvbench.utils.text import shown

LARGEST = 20.0  # larger than any normalized pixel: with ImageNet's mean and std they end at 2.7
REPEATED = 4  # images that are read twice before a pass
logger = logging.getLogger(__name__)


def check_splits(train: Images, val: Images, root: Path | None) -> None:
    """Check what can be known of both splits before an image is read; ``root`` is the folder that holds them, if any.

    Raises:
        UserError: a split is empty, its classes are not different names, or the splits have different classes or one.
    """
    where = f" in {shown(root)}" if root else ""
    for split, images in zip(SPLITS, (train, val), strict=True):
        _check_names(images, split)
        _ask(images, "__getitems__")
        if _ask(images, "__len__") < 1:
            raise UserError(f"The {split} split{where} ({type(images).__name__}) is empty: it needs an image or more.")
    if train.classes != val.classes:
        difference = name_differences(train.classes, val.classes, SPLITS)
        raise UserError(f"train and val have different classes{where}; {difference}.")
    if len(train.classes) < 2:
        raise UserError(
            f"There is one class{where}, {shorten(train.classes)}: every student is right from the start. At least two"
            " are needed."
            if train.classes
            else f"There is no class{where}: {type(train).__name__}.classes is empty. At least two are needed."
        )


def _ask(images: Images, attribute: str) -> Any:
    """An attribute of a data set, or its length; raises `UserError` where it has none."""
    try:
        return len(images) if attribute == "__len__" else getattr(images, attribute)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{type(images).__name__}.{attribute} gives {describe(error)}. A data set has classes, fingerprint,"
            " mtime_digest, __len__ and __getitems__, as kvbench.data.base.Images says."
        ) from error


def _check_names(images: Images, split: str) -> None:
    name, classes = type(images).__name__, _ask(images, "classes")
    if not isinstance(classes, tuple) or not all(isinstance(one, str) and one for one in classes):
        each = classes if isinstance(classes, tuple) else ()
        invalid = next((one for one in each if not isinstance(one, str) or not one), classes)
        raise UserError(
            f"{name}.classes of the {split} split must be a tuple of names, one string for each class;"
            f" got {shown(repr(invalid)[:80])} ({type(classes).__name__})."
        )
    if len(set(classes)) < len(classes):
        twice = sorted({one for one in classes if classes.count(one) > 1})
        raise UserError(f"{name}.classes of the {split} split names a class twice: {shorten(twice)}.")
    alike: dict[str, str] = {}
    for one in classes:
        other = alike.setdefault(unicodedata.normalize("NFC", one).strip(), one)
        if other != one:
            raise UserError(
                f"Two classes of the {split} split look the same: {other!a} and {one!a} ({_why(one, other)}): put their"
                " images into one, or rename one."
            )


def name_differences(ours: Sequence[str], theirs: Sequence[str], sides: tuple[str, str]) -> str:
    """Say how two different lists of class names differ, and what to do where names look alike; ``sides``: whose."""
    only = [sorted(set(one) - set(other)) for one, other in ((ours, theirs), (theirs, ours))]
    alike = {_look(name): name for name in only[1]}
    pairs = [(name, alike[_look(name)]) for name in only[0] if _look(name) in alike]
    if pairs:
        examples = "; ".join(f"{a!a} in {sides[0]}, {b!a} in {sides[1]} ({_why(a, b)})" for a, b in pairs[:3])
        more = f"; and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
        return f"some look alike and are not: {examples}{more}. Rename one of each pair"
    parts = [f"only in {side}: {shorten(names)}" for side, names in zip(sides, only, strict=True) if names]
    return "; ".join(parts) or "the same ones in another order"


def _look(name: str) -> str:
    """A name without what is easily overlooked: Unicode forms, case, blanks, punctuation, zeros in front."""
    letters = re.sub(r"[\W_]+|^0+(?=\d)", "", unicodedata.normalize("NFKC", name).casefold())
    return letters or name


def _why(one: str, other: str) -> str:
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return "the same letters in two Unicode forms (NFC, and NFD as macOS writes it)"
    if one.casefold() == other.casefold():
        return "upper and lower case"
    return "blanks or invisible characters, punctuation, or zeros in front"


def check_fingerprint(images: Images) -> dict[str, Any]:
    """Return a split's fingerprint; raises `UserError` where it cannot name a bank."""
    name, fingerprint = type(images).__name__, _ask(images, "fingerprint")
    try:
        text = json.dumps(fingerprint, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{name}.fingerprint must be a dictionary of texts, numbers and lists, as JSON holds them: {error}."
        ) from None
    if not isinstance(fingerprint, dict) or not fingerprint:
        raise UserError(f"{name}.fingerprint must be a dictionary that says what decides the pixels; got {text[:80]}.")
    if not isinstance(_ask(images, "mtime_digest"), str):
        raise UserError(f"{name}.mtime_digest must be a text, empty where no files are read.")
    return dict(json.loads(text))  # as a bank's header holds it: tuples are lists there, names of numbers texts


def check_repeatable(images: Images) -> None:
    """Read the first images twice, and backwards.

    Raises `UserError` where they differ, as augmented ones do, or the fingerprint does. Logs a warning where they do
    not look normalized.
    """
    if images.fingerprint != images.fingerprint:
        name = type(images).__name__
        raise UserError(f"{name}.fingerprint is another each time it is asked for: it must name the same data alike.")
    indices = [*range(min(REPEATED, len(images)))]
    (first, labels), (again, labels_again) = (read_checked(images, [*indices]) for _ in range(2))
    for index in indices:
        what = "other pixels" if not torch.equal(first[index], again[index]) else ""
        what = what or ("another label" if labels[index] != labels_again[index] else "")
        if what:
            raise UserError(
                f"{type(images).__name__}, image {index}: read twice, it has {what} the second time. The same"
                " index must give the same image: switch random augmentation off."
            )
    backwards, labels_backwards = (part.flip(0) for part in read_checked(images, indices[::-1]))
    same = first.shape == backwards.shape and torch.allclose(first, backwards, atol=1e-3)
    if not same or not torch.equal(labels, labels_backwards):
        raise UserError(
            f"{type(images).__name__}.__getitems__ gives other images for {indices[::-1]} than for {indices} turned"
            " round: it must return the images of the indices that it is called with, in their order."
        )
    low, high = (float(value) for value in first.aminmax())
    if max(high, -low) > LARGEST or low >= 0:
        logger.warning(
            "%s: the pixels of the first images go from %.3g to %.3g. Teachers expect normalized ones"
            " (ImageNet's mean and standard deviation), about -2 to 3.",
            type(images).__name__, low, high,
        )  # fmt: skip


def read_checked(images: Images, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Read a batch and check it: images (B, 3, size, size) float32, finite, and labels (B,), 0 to K-1, on the CPU.

    Raises:
        UserError: the data set raised an error, or what it returned is something else; names the image.
    """
    try:
        batch = images.__getitems__([*indices])
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"{type(images).__name__}.__getitems__ failed for {_range(indices)}:"
            f" {describe(error)} ({raised_at(error)})."
        ) from error
    return check_batch(images, indices, batch)


def check_batch(images: Images, indices: Sequence[int], batch: object) -> tuple[Tensor, Tensor]:
    """Check what a data set returned for some indices; see `read_checked`."""
    name = type(images).__name__
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        length = f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else ""
        raise UserError(
            f"{name}.__getitems__ must return images and labels, a pair of tensors; got {type(batch).__name__}{length}."
        )
    pixels, labels = batch
    return _check_pixels(name, indices, pixels), _check_labels(name, indices, labels, len(images.classes))


def _tensor(name: str, what: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: {what} must be a torch.Tensor; got {type(value).__name__}.")
    if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
        raise UserError(f"{name}: {what} must be a dense tensor on the CPU; got {value.layout} on {value.device}.")
    return value.detach().as_subclass(Tensor)


def _check_pixels(name: str, indices: Sequence[int], value: object) -> Tensor:
    pixels = _tensor(name, "images", value)
    shape = tuple(pixels.shape)
    wanted = f"(B, 3, size, size), here B = {len(indices)}"
    if len(shape) != 4 or shape[1] != 3:
        hint = ""
        if len(shape) == 4 and shape[3] == 3:
            hint = " Channels are last: return images.permute(0, 3, 1, 2)."
        elif len(shape) == 4 and shape[1] == 1:
            hint = " Gray images need three channels: return images.expand(-1, 3, -1, -1)."
        raise UserError(f"{name}, {_range(indices)}: shape {shape}; valid is {wanted}.{hint}")
    if shape[0] != len(indices):
        raise UserError(f"{name}, {_range(indices)}: {shape[0]} images came for {len(indices)} indices.")
    if shape[2] != shape[3] or not shape[2]:
        raise UserError(f"{name}, {_range(indices)}: shape {shape}; valid is {wanted}: as high as wide.")
    if pixels.dtype != torch.float32:
        hint = "return images.float()" if pixels.dtype.is_floating_point else "scale to 0 to 1, then normalize"
        raise UserError(f"{name}, {_range(indices)}: {pixels.dtype}; valid is torch.float32: {hint}.")
    if not torch.isfinite(pixels.sum()):  # several times quicker than to look at each value
        finite = torch.isfinite(pixels).flatten(1).all(1)
        if not finite.all():
            index = indices[int(finite.logical_not().nonzero()[0])]
            raise UserError(f"Image {index} of {name} has values that are not finite.")
    return pixels


def _check_labels(name: str, indices: Sequence[int], value: object, classes: int) -> Tensor:
    labels = _tensor(name, "labels", value)
    valid = f"valid are whole numbers from 0 to {classes - 1:,}, the {classes:,} classes"
    if labels.ndim == 2 and labels.shape == (len(indices), classes):
        raise UserError(
            f"{name}, {_range(indices)}: labels of shape {tuple(labels.shape)}, one-hot or probabilities;"
            f" {valid}: return labels.argmax(1)."
        )
    if labels.shape != (len(indices),):
        raise UserError(
            f"{name}, {_range(indices)}: labels of shape {tuple(labels.shape)} for {len(indices)} indices;"
            " valid is one label for each, (B,)."
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise UserError(
            f"{name}, image {indices[0]}: the label {labels[0].item()} is {labels.dtype}; {valid}, as torch.int64."
        )
    labels = labels.to(torch.int64)  # in uint8 class 300 would be class 44
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        at = int(wrong[0])
        hint = " Do the labels count from 1?" if int(labels[at]) == classes else ""
        raise UserError(f"{name}, image {indices[at]}: the label is {int(labels[at])}; {valid}.{hint}")
    return labels


def _range(indices: Sequence[int]) -> str:
    return f"image {indices[0]}" if len(indices) == 1 else f"images {indices[0]} to {indices[-1]}"


def warn_missing_classes(labels: Tensor, classes: Sequence[str], split: str) -> None:
    """Log a warning where a split has no image of some classes; ``labels`` (N,) are all of its labels."""
    there = {*torch.unique(labels).tolist()}
    missing = [name for k, name in enumerate(classes) if k not in there]
    if missing and len(labels) >= len(classes):  # fewer images than classes were asked for
        logger.warning("%s has no image of %d of %d classes: %s.", split, len(missing), len(classes), shorten(missing))
