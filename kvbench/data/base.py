"""Data sets: what a split of images is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from torch import Tensor

SPLITS: Final = ("train", "val")
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Transform:
    """How photographs become images, before they are cropped to a size: as a teacher's weights were trained for it.

    Args:
        resize: pixels of the shorter side before the centre crop.
        interpolation: torchvision's name of it: bilinear, bicubic.
        mean, std: of red, green and blue, from 0 to 1.

    Example:
        >>> Transform(232).describe(224)
        'resize 232, centre crop 224, ImageNet mean and std'
    """

    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def describe(self, size: int) -> str:
        """What is done for images of ``size`` pixels, for fingerprints: different texts for different pixels."""
        usual = (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD)
        scale = "ImageNet mean and std" if usual else f"mean {self.mean}, std {self.std}"
        how = "" if self.interpolation == "bilinear" else f" {self.interpolation}"
        return f"resize {self.resize}{how}, centre crop {size}, {scale}"


class Images(Protocol):
    """One split of a data set, read in batches.

    ``__getitems__`` takes B indices and returns normalized images (B, 3, size, size) float32 and class indices (B,),
    integers from 0 to K-1, both on the CPU, in the order of the indices and the same every time. ``classes`` are K
    different names. ``fingerprint`` holds what decides the pixels, JSON-serialisable and the same on every machine;
    ``mtime_digest`` changes where files of the same name and size were written again (empty: there are no files).

    Example:
        >>> class Noise:
        ...     classes, fingerprint, mtime_digest = ("a", "b"), {"images": "noise", "version": 1}, ""
        ...
        ...     def __len__(self):
        ...         return 1000
        ...
        ...     def __getitems__(self, indices):
        ...         pixels = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in indices]
        ...         return torch.stack(pixels), torch.tensor(indices) % 2

    What is returned is checked (`kvbench.data.contract`); anything else ends the run in a sentence.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    @property
    def mtime_digest(self) -> str: ...
