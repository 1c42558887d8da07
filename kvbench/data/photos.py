"""Photographs: reading image files as they come, and a split made of them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from kvbench.utils.errors import UserError
from kvbench.utils.text import shown

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
MAX_RESIZED: Final = 2**25  # pixels after resizing, before the crop: 128 MiB as Pillow holds them
BITS_PER_SAMPLE: Final = 258  # TIFF's tag
# Pillow goes by content, whatever a file's name is, and for some formats (EPS) it starts another program.
FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")  # as Pillow names them; MPO is read as JPEG
# What the file itself is the reason for; any other failure of the system may be gone the next time.
LASTING: Final = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


class UnreadableError(UserError):
    """An image file cannot be read, for a ``reason``; ``lasting``: it will be so as long as the file stays as it is."""

    def __init__(self, path: str, reason: str, lasting: bool = True):
        super().__init__(
            f"Cannot read the image {shown(path)}: {reason}. Mend or remove the file, or have all such files left out"
            " with --kvbench-unreadable skip."
        )
        self.path, self.reason, self.lasting = path, reason, lasting

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str, bool]]:  # it comes from a worker pickled
        return UnreadableError, (self.path, self.reason, self.lasting)


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
        transform = photo_transform(self.size)
        images = torch.stack([transform(decode(self.samples[i][0], self.size)) for i in indices])
        return images, torch.tensor([self.samples[i][1] for i in indices])

    def name(self, index: int) -> str:
        """The path of an image below the root, the same on every machine."""
        return Path(os.path.relpath(self.samples[index][0], self.root)).as_posix()

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
    def mtime_digest(self) -> str:
        """Times of change of all files: a bank is made again when a file was written since."""
        return self._digest(lambda stat: stat.st_mtime_ns)

    def _digest(self, fact: Callable[[os.stat_result], int]) -> str:
        digest = hashlib.sha256()
        for index, (path, label) in enumerate(self.samples):
            value = fact(file_facts(path))
            # Names may hold bytes that are no UTF-8.
            digest.update(f"{self.name(index)}\0{label}\0{value}\n".encode("utf-8", "backslashreplace"))
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


def file_facts(path: str) -> os.stat_result:
    """What the system knows about an image file; raises `UnreadableError` where there is no such file."""
    try:
        facts = os.stat(path)  # noqa: PTH116 (a Path for each of a million files takes longer than the call)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, for ever
        raise UnreadableError(path, "it is a folder" if stat.S_ISDIR(facts.st_mode) else "it is no plain file")
    return facts


def decode(path: str, size: int) -> Image.Image:
    """Read an image file, its first frame where it has several, as RGB.

    Transparency and the orientation in EXIF are ignored, as torchvision does. ``size`` is what the shorter side will be
    resized to.

    Raises:
        UnreadableError: the file is damaged, none of `FORMATS`, too large, too thin, or its pixels cannot be made RGB.
    """
    file_facts(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata: what matters is an error
            with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
                _check_shape(path, image.size, size)
                return _rgb(image)
    except UnreadableError:
        raise
    except Exception as error:  # damaged files trip Pillow's decoders up in every way
        raise _unreadable(path, error) from error


def _check_shape(path: str, sides: tuple[int, int], size: int) -> None:
    short, long = sorted(sides)
    if short < 1:
        raise UnreadableError(path, "it has no pixels")
    if size * size * long / short > MAX_RESIZED:
        raise UnreadableError(
            path,
            f"it is {sides[0]} by {sides[1]} pixels, too thin: resized to {size} pixels on its shorter side it would"
            f" have more than {MAX_RESIZED:,}",
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        # Pillow would cut 16 bits off at 255, which leaves nearly everything white.
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16  # type: ignore[attr-defined]
        white = 2**bits - 1
        grey = (np.asarray(image).astype(np.int64) * 255 + white // 2) // white
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        kind = "32-bit integers" if image.mode == "I" else "floating point numbers"
        raise ValueError(f"its pixels are {kind}, and nothing says which is white: save it with 8 or 16 bits a channel")
    # A palette whose colours are transparent goes through RGBA: straight to RGB, Pillow warns.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _unreadable(path: str, error: Exception) -> UnreadableError:
    code = getattr(error, "errno", None)
    if isinstance(error, UnidentifiedImageError):
        reason = f"it is none of {', '.join(FORMATS)}" if file_facts(path).st_size else "it is empty"
    elif code == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        reason = "it is a symbolic link to a file that is not there"
    else:
        reason = shown(getattr(error, "strerror", None) or error or type(error).__name__)
    return UnreadableError(path, reason.rstrip("."), code in LASTING and not isinstance(error, MemoryError))
