"""Odd image files: what they become, or the sentence that refuses them."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from kvbench.data.photos import FORMATS, UnreadableError, decode
from kvbench.utils.errors import UserError
from tests.support.photos import draw, nobody, seen

COLOUR = (200, 100, 50)
Frames = Callable[[Path], None]


def middle(path: Path) -> tuple[int, int, int]:
    """The pixel that the teacher sees in the middle of a file, back in 0 to 255."""
    return seen(path, 16)


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(256, 0)
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(ramp).save(tmp_path / name)
        pixels = np.asarray(decode(str(tmp_path / name), 256))
        assert (pixels == np.arange(256, dtype=np.uint8)[None, :, None]).all(), name
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "b.tif")
    with Image.open(tmp_path / "b.tif") as saved:
        assert saved.mode == "I;16B"
    assert np.asarray(decode(str(tmp_path / "b.tif"), 256))[0, 100].tolist() == [100] * 3


def test_tiff_of_12_bits_is_as_bright_as_its_bits_say(tmp_path: Path) -> None:
    white = b"\xff" * (16 * 16 * 12 // 8)
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, len(white))]
    folder = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(white)) + white + folder + bytes(4))
    assert middle(tmp_path / "a.tif") == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("see_through", [False, True])
def test_png_of_every_mode_becomes_rgb(mode: str, see_through: bool, tmp_path: Path) -> None:
    colour = COLOUR if mode in {"P", "RGB", "RGBA"} else (255, 255, 255) if mode == "1" else (124, 124, 124)
    made = Image.new("RGB", (20, 20), colour).convert(mode)
    transparency: dict[str, object] = {}
    if see_through and mode in {"LA", "RGBA"}:
        made.putalpha(0)
    elif see_through:
        transparency = {"transparency": colour if mode == "RGB" else made.getpixel((0, 0))}
    made.save(tmp_path / "a.png", "PNG", **transparency)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    off = max(abs(a - b) for a, b in zip(middle(tmp_path / "a.png"), colour, strict=True))
    assert off <= (26 if mode == "P" else 1)  # a palette's colours are those of the web, 51 apart


def test_inks_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = middle(tmp_path / "a.jpg")
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_seen(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((0, 255, 0), (255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / f"a.{suffix}") as saved:
        assert getattr(saved, "n_frames", 1) == 3
    red, green, blue = middle(tmp_path / f"a.{suffix}")
    assert green > 240
    assert max(red, blue) < 15


def test_the_orientation_in_exif_is_ignored_as_torchvision_does(tmp_path: Path) -> None:
    photo = Image.new("RGB", (16, 16), (255, 0, 0))
    photo.paste((0, 0, 255), (0, 8, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo.save(tmp_path / "a.png", exif=exif)
    assert np.asarray(decode(str(tmp_path / "a.png"), 16))[2, 2].tolist() == [255, 0, 0]


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    assert middle(draw(tmp_path / "a.png", COLOUR, (1, 1))) == COLOUR


@pytest.mark.parametrize("size", [(1, 300), (300, 1)])
def test_a_thin_image_is_read_where_memory_allows(size: tuple[int, int], tmp_path: Path) -> None:
    assert middle(draw(tmp_path / "a.png", COLOUR, size)) == COLOUR


def test_an_image_too_thin_for_memory_is_refused_before_it_is_resized(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", COLOUR, (1, 60_000))
    with pytest.raises(UserError, match=r"a\.png: it is 1 by 60000 pixels, too thin: resized to 224 pixels"):
        decode(str(path), 224)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))


def test_a_decompression_bomb_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(20_000, 20_000))
    with pytest.raises(UserError, match=r"a\.png: Image size \(400000000 pixels\) exceeds limit"):
        decode(str(tmp_path / "a.png"), 64)


def test_a_large_image_below_pillows_limit_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here on, and refuses twice as many
    assert middle(draw(tmp_path / "a.png", COLOUR, (40, 40))) == COLOUR


def test_a_file_under_another_formats_name_is_read(tmp_path: Path) -> None:
    for format_ in (*FORMATS, "MPO"):
        Image.new("RGB", (20, 20), (255, 255, 255)).save(tmp_path / "a.jpg", format_)
        assert middle(tmp_path / "a.jpg") == (255, 255, 255), format_


@pytest.mark.skipif(os.name != "posix", reason="the program that must not start is a shell script")
def test_no_image_file_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, gs, path = tmp_path / "started", tmp_path / "bin" / "gs", tmp_path / "cat.jpg"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {started}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for when it is first needed
    Image.new("RGB", (16, 16)).save(path, "EPS")
    with pytest.raises(UnreadableError, match=r"cat\.jpg: it is none of JPEG, PNG") as told:
        decode(str(path), 16)
    assert told.value.lasting
    assert not started.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("not an image\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


def round_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def floats(path: Path) -> None:
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path, "TIFF")


def integers(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 70_000, np.int32)).save(path, "TIFF")


@pytest.mark.parametrize("suffix", ["JPEG", "png", "tiff", "webp", "bmp", "ppm"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, ""),
        (text, "it is none of JPEG, PNG, GIF, WEBP, TIFF, BMP, PPM"),
        (empty, "it is empty"),
        (folder, "it is a folder"),
        (broken_link, "a symbolic link to a file that is not there"),
        (round_link, "Too many levels of symbolic links"),
        (pipe, "it is no plain file"),
        (floats, "its pixels are floating point numbers"),
        (integers, "its pixels are 32-bit integers"),
    ],
)
def test_what_cannot_be_read_is_named_with_a_reason(damage: Frames, reason: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad.{suffix}"
    Image.effect_noise((40, 40), 50).convert("RGB").save(path)
    damage(path)
    with pytest.raises(UserError) as told:
        decode(str(path), 16)
    assert str(told.value).startswith(f"Cannot read the image {path}: ")
    assert reason in str(told.value)
    assert "Mend or remove the file, or have all such files left out with --kvbench-unreadable skip" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that gives an error when it is read")
def test_a_failure_of_the_system_is_told_apart_from_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/proc/self/mem")
    with pytest.raises(UnreadableError, match="Input/output error") as told:
        decode(str(tmp_path / "a.png"), 16)
    assert not told.value.lasting
    empty(tmp_path / "b.png")
    with pytest.raises(UnreadableError) as told:
        decode(str(tmp_path / "b.png"), 16)
    assert told.value.lasting


def test_a_file_that_may_not_be_read_is_told(open_folder: Path) -> None:
    path = draw(open_folder / "a.png")
    path.chmod(0)
    with nobody(), pytest.raises(UserError, match=r"a\.png: Permission denied"):
        decode(str(path), 16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "ppm", "gif"])
def test_a_file_with_wrong_bytes_is_an_image_or_a_sentence(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((24, 24), 50).convert("RGB").save(path)
    sound = path.read_bytes()
    draws = random.Random(0)
    refused = 0
    for _ in range(60):
        wrong = bytearray(sound)
        for _ in range(draws.choice([1, 4, 30])):
            wrong[draws.randrange(min(len(wrong), draws.choice([40, len(wrong)])))] = draws.randrange(256)
        path.write_bytes(wrong[: draws.choice([len(wrong), draws.randrange(1, len(wrong))])])
        try:
            assert decode(str(path), 16).mode == "RGB"
        except UnreadableError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10
