"""Photographs: what becomes of an image file, whatever it is."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kvbench.data.base import IMAGENET_MEAN, IMAGENET_STD, Transform
from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
from kvbench.utils.errors import UserError
from tests.support.photos import draw, draw_folder


def normalised(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor([(c / 255 - m) / s for c, m, s in zip(colour, IMAGENET_MEAN, IMAGENET_STD, strict=True)])


def read(path: Path, size: int = 8) -> torch.Tensor:
    return PhotoImages([(str(path), 0)], ("one",), size, path.parent).__getitems__([0])[0][0]


def test_a_constant_image_is_normalised_with_imagenets_mean_and_std(tmp_path: Path) -> None:
    pixels = read(draw(tmp_path / "a.png", (255, 0, 51), (20, 30)), 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32
    # By hand: (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225.
    expected = torch.tensor([2.2489, -2.0357, -0.9156])[:, None, None].expand(3, 8, 8)
    assert torch.allclose(pixels, expected, atol=1e-4)


@pytest.mark.parametrize("tall", [False, True])
def test_the_shorter_side_is_resized_and_the_longer_one_cropped_to_its_centre(tall: bool, tmp_path: Path) -> None:
    photo = Image.new("RGB", (64, 32), (255, 0, 0))  # red but for its central half: left 32 columns green, then blue
    photo.paste((0, 255, 0), (16, 0, 32, 32))
    photo.paste((0, 0, 255), (32, 0, 48, 32))
    if tall:
        photo = photo.transpose(Image.Transpose.TRANSPOSE)
    photo.save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png", 16)
    if tall:
        pixels = pixels.transpose(1, 2)
    green, blue = normalised((0, 255, 0)), normalised((0, 0, 255))
    # The columns beside an edge of colours are mixed by antialiasing; those within are pure.
    assert torch.allclose(pixels[:, :, 2:6], green[:, None, None].expand(3, 16, 4), atol=0.02)
    assert torch.allclose(pixels[:, :, 10:14], blue[:, None, None].expand(3, 16, 4), atol=0.02)


def test_a_small_image_is_enlarged(tmp_path: Path) -> None:
    assert read(draw(tmp_path / "a.png", size=(3, 5)), 8).shape == (3, 8, 8)


def grey(photo: Image.Image) -> Image.Image:
    return photo.convert("L")


def palette(photo: Image.Image) -> Image.Image:
    return photo.convert("P", palette=Image.Palette.ADAPTIVE)


def see_through_palette(photo: Image.Image) -> Image.Image:
    made = Image.new("P", photo.size, 1)
    made.putpalette([0, 0, 0, 200, 100, 50, 9, 9, 9])
    made.putpixel((0, 0), 0)
    made.putpixel((1, 0), 2)
    made.info["transparency"] = bytes([255, 120, 0])
    return made


def alpha(photo: Image.Image) -> Image.Image:
    photo.putalpha(128)
    return photo


def cmyk(photo: Image.Image) -> Image.Image:
    return photo.convert("CMYK")


@pytest.mark.parametrize(
    ("make", "suffix"), [(grey, "png"), (palette, "png"), (see_through_palette, "png"), (alpha, "png"), (cmyk, "jpg")]
)
def test_other_colour_modes_become_rgb(make: Callable[[Image.Image], Image.Image], suffix: str, tmp_path: Path) -> None:
    made = make(Image.new("RGB", (32, 32), (200, 100, 50)))
    made.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as saved:
        assert saved.mode == made.mode
    pixels = read(tmp_path / f"a.{suffix}", 16)
    colour = (124, 124, 124) if make is grey else (200, 100, 50)
    assert torch.allclose(pixels[:, 8, 8], normalised(colour), atol=0.06)


def test_the_fingerprint_changes_with_what_decides_pixels(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    samples, classes = image_folder(root, "train")
    base = PhotoImages(samples, classes, 8, root).fingerprint
    assert PhotoImages(samples, classes, 8, root).fingerprint == base
    assert PhotoImages(samples, classes, 9, root).fingerprint != base
    assert PhotoImages(samples[1:], classes, 8, root).fingerprint != base
    assert PhotoImages([(samples[0][0], 1), *samples[1:]], classes, 8, root).fingerprint != base
    path = Path(samples[0][0])
    stat = path.stat()
    mtime_digest = PhotoImages(samples, classes, 8, root).mtime_digest
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    assert PhotoImages(samples, classes, 8, root).fingerprint == base  # a copy is the same data
    assert PhotoImages(samples, classes, 8, root).mtime_digest != mtime_digest  # but a bank is made again
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert PhotoImages(samples, classes, 8, root).fingerprint != base


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "here")
    here = PhotoImages(*image_folder(root, "train"), 8, root).fingerprint
    there = root.rename(tmp_path / "there")
    assert PhotoImages(*image_folder(there, "train"), 8, there).fingerprint == here


NAMES = [
    "with space.png",
    "two\nlines.png",
    "é漢.png",
    "bell\x07\x1b[31m.png",
    os.fsdecode(b"caf\xe9.png"),
    "'q\"\\.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_listed_known_and_told(name: str, tmp_path: Path) -> None:
    path = draw(tmp_path / name)
    images = PhotoImages([(str(path), 0)], ("one",), 8, tmp_path)
    assert torch.isfinite(images.__getitems__([0])[0]).all()
    assert len(images.fingerprint["listing"]) == len(images.mtime_digest) == 64
    path.write_text("no image")
    with pytest.raises(UserError) as told:
        images.__getitems__([0])
    assert str(told.value).isprintable()
    str(told.value).encode()
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_names_of_no_utf_8_that_differ_have_different_fingerprints(tmp_path: Path) -> None:
    paths = [draw(tmp_path / os.fsdecode(name)) for name in (b"\xe9.png", b"\xe8.png")]
    one, two = (PhotoImages([(str(path), 0)], ("one",), 8, tmp_path).fingerprint for path in paths)
    assert one != two


def test_a_transform_resizes_before_the_crop_and_normalizes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    left_half_white = Image.new("RGB", (16, 16))
    left_half_white.paste((255, 255, 255), (0, 0, 8, 16))
    left_half_white.save(path)
    images = PhotoImages([(str(path), 0)], ("one",), 8, tmp_path, Transform(16, mean=(0.5,) * 3, std=(0.25,) * 3))
    pixels = images.__getitems__([0])[0][0]
    assert pixels.shape == (3, 8, 8)
    assert pixels[:, :, :4].eq(2).all(), "the middle of 16 pixels: the edge stays sharp"
    assert pixels[:, :, 4:].eq(-2).all()
    sharp = PhotoImages([(str(path), 0)], ("one",), 8, tmp_path, Transform(8, "bicubic")).__getitems__([0])[0]
    soft = PhotoImages([(str(path), 0)], ("one",), 8, tmp_path).__getitems__([0])[0]
    assert not torch.equal(sharp, soft)


def test_the_transform_is_in_the_fingerprint(tmp_path: Path) -> None:
    def text(transform: Transform | None) -> object:
        return PhotoImages([], ("one",), 8, tmp_path, transform).fingerprint["transform"]

    assert text(None) == text(Transform(8)) == "resize 8, centre crop 8, ImageNet mean and std"
    assert text(Transform(9, "bicubic")) == "resize 9 bicubic, centre crop 8, ImageNet mean and std"
    half = (0.5, 0.5, 0.5)
    assert text(Transform(8, mean=half)) == f"resize 8, centre crop 8, mean {half}, std (0.229, 0.224, 0.225)"
