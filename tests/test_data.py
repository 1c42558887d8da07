"""Photographs in folders: layouts, decoding, what is wrong with them told in a sentence."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from kvbench import data
from kvbench.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PhotoImages,
    batches,
    image_folder,
    imagenet,
    subset,
    tiny_imagenet,
)
from kvbench.errors import UserError
from kvbench.workloads import WORKLOADS

WNIDS = ("n01443537", "n01629819")


def draw(path: Path, colour: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def draw_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    """An ImageFolder with images of different colours."""
    for s, split in enumerate(("train", "val")):
        for k, name in enumerate(classes):
            for i in range(each):
                draw(root / split / name / f"{i}.png", (40 * i, 90 * k, 100 * s))
    return root


def draw_tiny_imagenet(root: Path) -> Path:
    for wnid in WNIDS:
        for i in range(2):
            draw(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
    for i in range(3):
        draw(root / "val" / "images" / f"val_{i}.JPEG")
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 2]}\t0\t32\t44\t62\n" for i in (1, 0, 2)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def draw_imagenet(root: Path) -> Path:
    """What torchvision leaves when it has unpacked ImageNet's archives."""
    for wnid in WNIDS:
        draw(root / "train" / wnid / f"{wnid}_1.JPEG")
        draw(root / "val" / wnid / "ILSVRC2012_val_00000001.JPEG")
    names = {WNIDS[0]: ("goldfish", "Carassius auratus"), WNIDS[1]: ("European fire salamander",)}
    torch.save((names, [WNIDS[0], WNIDS[1], WNIDS[0]]), root / "meta.bin")
    return root


def normalised(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor([(c / 255 - m) / s for c, m, s in zip(colour, IMAGENET_MEAN, IMAGENET_STD, strict=True)])


def read(path: Path, size: int = 8) -> torch.Tensor:
    return PhotoImages([(str(path), 0)], ("one",), size, path.parent).__getitems__([0])[0][0]


# Layouts


def test_an_image_folder_is_listed_in_order(tmp_path: Path) -> None:
    samples, classes = image_folder(draw_folder(tmp_path), "val")
    assert classes == ("cat", "dog")
    assert [(Path(path).relative_to(tmp_path).as_posix(), k) for path, k in samples] == [
        (f"val/{name}/{i}.png", k) for k, name in enumerate(classes) for i in range(3)
    ]


def test_tiny_imagenet_reads_train_from_folders_and_val_from_its_annotations(tmp_path: Path) -> None:
    root = draw_tiny_imagenet(tmp_path)
    samples, classes = tiny_imagenet(root, "train")
    assert classes == WNIDS
    assert [(Path(path).name, k) for path, k in samples] == [
        (f"{w}_{i}.JPEG", k) for k, w in enumerate(WNIDS) for i in (0, 1)
    ]
    samples, classes = tiny_imagenet(root, "val")
    assert classes == WNIDS
    assert [(Path(path).name, k) for path, k in samples] == [("val_1.JPEG", 1), ("val_0.JPEG", 0), ("val_2.JPEG", 0)]
    assert all(Path(path).is_file() for path, _ in samples)


def test_imagenet_is_opened_by_torchvision_from_its_unpacked_folders(tmp_path: Path) -> None:
    root = draw_imagenet(tmp_path)
    for split in ("train", "val"):
        samples, classes = imagenet(root, split)
        assert classes == WNIDS
        assert [(Path(path).parent.name, k) for path, k in samples] == [(WNIDS[0], 0), (WNIDS[1], 1)]
        assert all(Path(path).parent.parent.name == split for path, _ in samples)


def test_the_imagenet_workload_opens_that_folder_at_256_pixels(tmp_path: Path) -> None:
    images = WORKLOADS["imagenet"].images("val", draw_imagenet(tmp_path), None)
    assert len(images) == 2
    assert images.__getitems__([1])[0].shape == (1, 3, 256, 256)
    assert images.__getitems__([1])[1].tolist() == [1]


@pytest.mark.parametrize("name", ["tiny-imagenet", "folder", "imagenet"])
def test_a_missing_folder_is_named_with_the_layout(name: str, tmp_path: Path) -> None:
    row = WORKLOADS[name]
    with pytest.raises(UserError, match=r"--kvbench-root DIR") as told:
        row.images("train", None, None)
    assert row.layout in str(told.value)
    with pytest.raises(UserError) as told:
        row.images("train", tmp_path / "nowhere", None)
    assert str(tmp_path / "nowhere") in str(told.value)
    assert row.layout in str(told.value)


@pytest.mark.parametrize("lister", [tiny_imagenet, image_folder, imagenet])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_folder_is_told_in_a_sentence(lister: Callable[..., object], split: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        lister(tmp_path, split)
    assert list(tmp_path.iterdir()) == [], "nothing is written into the user's folder"


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"No images in .*train"):
        image_folder(tmp_path, "train")
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"No images in .*train.*cat"):
        image_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("val_0.JPEG\tn00000000\t0\t0\t1\t1", r"line 2: 'n00000000' is no class folder"),
        ("val_0.JPEG", r"line 2: '' is no class folder"),
        ("", r"line 2: '' is no class folder"),
    ],
)
def test_a_bad_line_of_tiny_imagenets_annotations_is_numbered(line: str, told: str, tmp_path: Path) -> None:
    annotations = draw_tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    annotations.write_text(f"val_0.JPEG\t{WNIDS[0]}\n{line}\nval_1.JPEG\t{WNIDS[0]}\n")
    with pytest.raises(UserError, match=told):
        tiny_imagenet(tmp_path, "val")


def test_missing_and_empty_annotations_are_named(tmp_path: Path) -> None:
    annotations = draw_tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    annotations.write_text("")
    with pytest.raises(UserError, match=r"No images are listed in .*val_annotations\.txt"):
        tiny_imagenet(tmp_path, "val")
    annotations.unlink()
    with pytest.raises(UserError, match=r"No file .*val_annotations\.txt"):
        tiny_imagenet(tmp_path, "val")


def test_a_listed_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    annotations = draw_tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    annotations.write_text(f"val_7.JPEG\t{WNIDS[0]}\n")
    images = WORKLOADS["tiny-imagenet"].images("val", tmp_path, None)
    with pytest.raises(UserError, match=r"val_7\.JPEG"):
        _ = images.fingerprint
    with pytest.raises(UserError, match=r"val_7\.JPEG"):
        images.__getitems__([0])


@pytest.mark.parametrize("damage", ["no class list", "cut short", "a class unknown"])
def test_an_imagenet_folder_that_torchvision_cannot_open_is_told(damage: str, tmp_path: Path) -> None:
    root = draw_imagenet(tmp_path)
    if damage == "no class list":
        (root / "meta.bin").unlink()
    elif damage == "cut short":
        (root / "meta.bin").write_bytes((root / "meta.bin").read_bytes()[:100])
    else:
        draw(root / "val" / "n99999999" / "1.JPEG")
    with pytest.raises(UserError, match=r"torchvision cannot open ImageNet \(val\)"):
        imagenet(root, "val")


# Decoding


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


@pytest.mark.parametrize("damage", ["cut short", "no image", "empty"])
def test_an_unreadable_image_is_named(damage: str, tmp_path: Path) -> None:
    path = draw(tmp_path / "bad.png", size=(200, 200))
    content = path.read_bytes()
    path.write_bytes({"cut short": content[: len(content) // 2], "no image": b"hello", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"Cannot read the image .*bad\.png.*Mend or remove the file"):
        read(path)


# Samples, fingerprints, batches


def test_a_subset_is_the_same_every_time_and_spread_over_the_classes() -> None:
    samples = [(f"{i}.png", i // 100) for i in range(1000)]
    state = torch.get_rng_state()
    chosen = subset(samples, 200)
    torch.manual_seed(1)
    assert subset(samples, 200) == chosen
    torch.set_rng_state(state)
    assert len(set(chosen)) == 200
    assert chosen == sorted(chosen, key=samples.index)
    assert {k for _, k in chosen} == set(range(10))
    assert subset(samples, None) == samples
    assert subset(samples, 1000) == samples


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
    stamp = PhotoImages(samples, classes, 8, root).stamp
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    assert PhotoImages(samples, classes, 8, root).fingerprint == base  # a copy is the same data
    assert PhotoImages(samples, classes, 8, root).stamp != stamp  # but a bank is made again
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert PhotoImages(samples, classes, 8, root).fingerprint != base


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "here")
    here = PhotoImages(*image_folder(root, "train"), 8, root).fingerprint
    there = root.rename(tmp_path / "there")
    assert PhotoImages(*image_folder(there, "train"), 8, there).fingerprint == here


def photos(root: Path) -> PhotoImages:
    return PhotoImages(*image_folder(draw_folder(root), "train"), 8, root)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_batches_are_the_same_with_and_without_worker_processes(tmp_path: Path) -> None:
    images = photos(tmp_path)
    alone, helped = list(batches(images, 4, workers=0)), list(batches(images, 4, workers=2))
    assert [len(labels) for _, labels in helped] == [4, 2]
    for (x, y), (x2, y2) in zip(alone, helped, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_batches_come_in_the_order_asked_for(tmp_path: Path) -> None:
    images = photos(tmp_path)
    order = [5, 0, 3]
    (x, y), (x2, y2) = batches(images, 2, order, workers=0)
    whole, labels = images.__getitems__(order)
    assert torch.equal(torch.cat([x, x2]), whole)
    assert torch.equal(torch.cat([y, y2]), labels)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence_from_workers_too(workers: int, tmp_path: Path) -> None:
    images = photos(tmp_path)
    Path(images.samples[4][0]).write_bytes(b"hello")
    with pytest.raises(UserError) as told:
        list(batches(images, 4, workers=workers))
    assert str(told.value).startswith(f"Cannot read the image {images.samples[4][0]}")
    assert "Traceback" not in str(told.value)


def test_all_that_a_spawned_worker_gets_can_be_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = SimpleNamespace(arguments=(), options={})

    def loader(*arguments: Any, **options: Any) -> list[Any]:
        given.arguments, given.options = arguments, options
        return []

    monkeypatch.setattr(data, "DataLoader", loader)
    assert list(batches(photos(tmp_path), 4, workers=2)) == []
    assert given.options["num_workers"] == 2
    assert pickle.dumps((given.arguments, given.options))


def test_files_are_read_by_worker_processes_and_generated_images_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[int] = []

    def loader(*_: object, num_workers: int, **__: object) -> list[Any]:
        workers.append(num_workers)
        return []

    monkeypatch.setattr(data, "DataLoader", loader)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    list(batches(photos(tmp_path), 4))
    list(batches(WORKLOADS["fractals"].images("val", None, 3), 4))
    assert workers == [16, 0]


def test_the_real_photographs_are_all_there(tiny_imagenet_root: Path) -> None:
    row = WORKLOADS["tiny-imagenet"]
    for split, count in (("train", 100_000), ("val", 10_000)):
        images = row.images(split, tiny_imagenet_root, None)
        assert len(images) == count
        assert len(images.classes) == 200
        pixels, labels = images.__getitems__([*range(0, count, count // 64)][:64])
        assert pixels.shape == (64, 3, 64, 64)
        assert len(labels.unique()) > 30
        assert -3 < float(pixels.mean()) < 3
        assert 0.5 < float(pixels.std()) < 2
