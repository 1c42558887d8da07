"""Photographs: reading image files as they come, and a split made of them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from kvbench.core.numerics import default_numerics
from kvbench.data.base import Transform
from kvbench.utils.errors import UserError
from kvbench.utils.files import known_content
from kvbench.utils.text import shown

MAX_RESIZED: Final = 2**25  # pixels after resizing, before the crop: 128 MiB as Pillow holds them
MAX_PIXELS: Final = 2**30 // 12  # Pillow's own limit, twice which is an error
BITS_PER_SAMPLE: Final = 258  # TIFF's tag
# Pillow goes by content, whatever a file's name is, and for some formats (EPS) it starts another program.
FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")  # as Pillow names them; MPO is read as JPEG
# Brands of the container that HEIC and AVIF share, at byte 8.
BRANDS: Final = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF",
                 b"msf1": "HEIF"}  # fmt: skip
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
class Survey:
    """What the system knows of the files of a split.

    Args:
        listing: digest of names, labels and sizes, the same for a copy elsewhere.
        mtimes: digest of names, labels and times of change.
        state: digest of all that tells one state of the files from another on this machine.
        sizes: bytes of each file (N,); -1 where there is none.
        problem: why the first file that is not there, or is no file, cannot be read.
    """

    listing: str
    mtimes: str
    state: str
    sizes: npt.NDArray[np.int64]
    problem: UnreadableError | None


@dataclass(frozen=True)
class PhotoImages:
    """Photographs from files: resized, centre-cropped to ``size`` pixels, normalized.

    Without a ``transform`` the shorter side is resized to ``size`` pixels, too, and ImageNet's mean and std are used.
    """

    samples: Sequence[tuple[str, int]]
    classes: tuple[str, ...]
    size: int
    root: Path = field(default=Path())
    transform: Transform | None = None

    @property
    def prepared(self) -> Transform:
        """How the photographs are prepared."""
        return self.transform or Transform(self.size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.normalize(*self.decode(indices))

    def decode(self, indices: list[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Pixels (B, 3, size, size) from 0 to 255 and labels (B,): a quarter of the bytes of normalized images."""
        (found,) = decode_for((self,), indices)
        return found

    @property
    def crop(self) -> v2.Transform:
        """What makes the pixels of a photograph."""
        how = v2.InterpolationMode(self.prepared.interpolation)
        return v2.Compose([v2.Resize(self.prepared.resize, how, antialias=True), v2.CenterCrop(self.size)])

    @default_numerics()
    def normalize(self, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """What `decode` returned, as tensors, normalized."""
        scaled = v2.functional.to_dtype(torch.from_numpy(np.ascontiguousarray(pixels)), torch.float32, scale=True)
        return v2.functional.normalize(scaled, [*self.prepared.mean], [*self.prepared.std]), torch.from_numpy(labels)

    def name(self, index: int) -> str:
        """The path of an image below the root, the same on every machine."""
        path, prefix = self.samples[index][0], f"{self.root}{os.sep}"
        below = path[len(prefix) :]
        if os.sep != "/" or not path.startswith(prefix) or below.startswith(".") or "/." in below or "//" in below:
            return Path(os.path.relpath(path, self.root)).as_posix()
        return below  # as above, in a tenth of the time: there may be a million

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Relative paths, classes and sizes of all files, and the transform: the same for a copy elsewhere."""
        return {
            "images": "files",
            "count": len(self),
            "classes": len(self.classes),
            "listing": self.readable_survey.listing,
            "transform": self.prepared.describe(self.size),
        }

    @property
    def mtime_digest(self) -> str:
        """Times of change of all files: a bank is computed again when a file was written since."""
        return self.readable_survey.mtimes

    @property
    def readable_survey(self) -> Survey:
        """The survey; raises the `UnreadableError` of the first file that is not there, or is no file."""
        if self.survey.problem is not None:
            raise self.survey.problem
        return self.survey

    @cached_property
    def survey(self) -> Survey:
        """What the system knows of all files, asked once for as long as this object lives."""
        listing, mtimes, state = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        sizes = np.full(len(self), -1, np.int64)
        problem = None
        for index, (path, label) in enumerate(self.samples):
            # Names may hold bytes that are no UTF-8.
            name = f"{self.name(index)}\0{label}\0".encode("utf-8", "backslashreplace")
            try:
                facts = os.stat(path)  # noqa: PTH116 (a Path for each of a million files takes longer than the call)
                if not stat.S_ISREG(facts.st_mode):
                    problem = problem or _no_file(path, facts)
            except (OSError, ValueError) as error:
                problem = problem or _unreadable(path, error)
                state.update(b"%b%b\n" % (name, repr((type(error).__name__, getattr(error, "errno", None))).encode()))
                continue
            sizes[index] = facts.st_size
            listing.update(b"%b%d\n" % (name, facts.st_size))
            mtimes.update(b"%b%d\n" % (name, facts.st_mtime_ns))
            known = facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_mode
            state.update(b"%b%d %d %d %d\n" % (name, *known))
        return Survey(listing.hexdigest(), mtimes.hexdigest(), state.hexdigest(), sizes, problem)


def decode_for(
    every: Sequence[PhotoImages], indices: Sequence[int]
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """`PhotoImages.decode` of several that have the same files: each is read once, and resized for each of them."""
    samples, crops = every[0].samples, [images.crop for images in every]
    largest = max(images.prepared.resize for images in every)
    photos = (decode(samples[i][0], largest) for i in indices)
    pixels = zip(*([np.asarray(crop(photo)) for crop in crops] for photo in photos), strict=True)
    labels = np.array([samples[i][1] for i in indices])
    return [(np.stack(one).transpose(0, 3, 1, 2), labels) for one in pixels]


def check_file(path: str) -> None:
    """Raise `UnreadableError` where there is no such file, or it is no file."""
    try:
        facts = Path(path).stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, for ever
        raise _no_file(path, facts)


def decode(path: str, size: int) -> Image.Image:
    """Read an image file, its first frame where it has several, as RGB.

    Transparency and the orientation in EXIF are ignored, as torchvision does. ``size`` is what the shorter side will be
    resized to.

    Raises:
        UnreadableError: the file is damaged, none of `FORMATS`, too large, too thin, or its pixels cannot be made RGB.
    """
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata: what matters is an error
            with _pillow_defaults(), Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
                _check_shape(path, image.size, size)
                return _rgb(image)
    except UnreadableError:
        raise
    except Exception as error:  # damaged files trip Pillow's decoders up in every way
        raise _unreadable(path, error) from error


@contextmanager
def _pillow_defaults() -> Iterator[None]:
    """A block in which no switch of Pillow's decides which images can be read, or what their pixels are."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    if before[0] is not None:  # whoever allows more may read more
        Image.MAX_IMAGE_PIXELS = max(before[0], MAX_PIXELS)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # the missing part would be grey
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


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


def _what_it_is(path: str) -> str:
    """Why a file is no image, as far as its first bytes show."""
    with suppress(OSError), Path(path).open("rb") as file:
        head = file.read(64)
        if not head:
            return "it is empty"
        if not head.strip(b"\0"):
            return "its first bytes are all zero, as an interrupted copy or a full disk leaves them: copy it again"
        if what := known_content(head) or ("a zip archive: unpack it first" if head.startswith(b"PK\x03\x04") else ""):
            return f"it is {what}"
        if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
            return f"it is {BRANDS[head[8:12]]}, which is not read: convert it to JPEG or PNG"
    return f"it is none of {', '.join(FORMATS)}"


def _no_file(path: str, facts: os.stat_result) -> UnreadableError:
    return UnreadableError(path, "it is a folder" if stat.S_ISDIR(facts.st_mode) else "it is no plain file")


def _unreadable(path: str, error: Exception) -> UnreadableError:
    code = getattr(error, "errno", None)
    if isinstance(error, UnidentifiedImageError):
        reason = _what_it_is(path)
    elif code == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        reason = "it is a symbolic link to a file that is not there"
    else:
        reason = shown(getattr(error, "strerror", None) or error or type(error).__name__)
    return UnreadableError(path, reason.rstrip("."), code in LASTING and not isinstance(error, MemoryError))
