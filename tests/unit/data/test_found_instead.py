"""Folders that are not quite as expected: taken where there is no doubt, else a sentence that leads to the mend."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

from kvbench.data.layouts import image_folder, imagenet, need_folder, tiny_imagenet
from kvbench.data.photos import PhotoImages, UnreadableError, decode
from kvbench.utils.errors import UserError
from tests.support.logs import logged
from tests.support.photos import WNIDS, draw, draw_folder, draw_imagenet, draw_tiny_imagenet


@pytest.mark.parametrize(
    ("split", "name"), [("val", "valid"), ("val", "validation"), ("val", "Val"), ("train", "training")]
)
def test_another_usual_name_of_a_split_is_taken(split: str, name: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    expected = image_folder(root, split)
    (root / split).rename(root / name)
    samples, classes = image_folder(root, split)
    assert classes == expected[1]
    assert [(Path(path).parts[-2:], k) for path, k in samples] == [(Path(p).parts[-2:], k) for p, k in expected[0]]


def both_names(root: Path) -> None:
    (root / "val").rename(root / "valid")
    shutil.copytree(root / "valid", root / "validation")


def test_for_val(root: Path) -> None:
    (root / "val").rename(root / "test")


def no_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def nested(root: Path) -> None:
    for split in ("train", "val"):
        (root / "flowers").mkdir(exist_ok=True)
        (root / split).rename(root / "flowers" / split)
    (root / "__MACOSX" / "train").mkdir(parents=True)


def deeper(root: Path) -> None:
    (root / "a").mkdir()
    for split in ("train", "val"):
        (root / split).rename(root / "a" / split)
    (root / "a").rename(root / "b")
    (root / "a").mkdir()
    (root / "b").rename(root / "a" / "b")


def splits_in_classes(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / name).mkdir(exist_ok=True)
            (root / split / name).rename(root / name / split)
        (root / split).rmdir()


def longer_name(root: Path) -> None:
    (root / "val").rename(root / "val_set")


def archives(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "train.tar.gz").write_bytes(b"")


def images_alone(root: Path) -> None:
    shutil.rmtree(root)
    draw(root / "1.png")


def classes_alone(root: Path) -> None:
    shutil.rmtree(root / "val")
    for name in ("cat", "dog"):
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()


test_for_val.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (both_names, r"found train, valid, validation: rename the right one to val\."),
        (test_for_val, r"found test, train: to validate on test, rename it to val or link it \(ln -s test val\)\."),
        (no_val, r"found train: split some images of each class off into val\."),
        (nested, r"found flowers: did you mean --kvbench-root .*data/flowers\?"),
        (deeper, r"found a: did you mean --kvbench-root .*data/a/b\?$"),
        (splits_in_classes, r"found cat, dog: move cat/train to train/cat, and so on\."),
        (longer_name, r"found train, val_set: if val_set is it, rename it to val\."),
        (archives, r"found train\.tar\.gz: unpack it\."),
        (images_alone, r"found 1 images: put them into such folders\."),
        (classes_alone, r"found cat, dog: if these are classes, move them into train"),
    ],
)
def test_what_was_found_instead_is_told(change: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data")
    change(root)
    with pytest.raises(UserError, match=rf"No folder {root}/(train|val): expected {root} to hold.*{sentence}"):
        [image_folder(root, split) for split in ("train", "val")]


def test_a_split_in_the_place_of_the_root_is_told(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data")
    with pytest.raises(UserError, match=rf"found cat, dog: did you mean --kvbench-root {root}\?"):
        image_folder(root / "train", "train")
    with pytest.raises(UserError, match=rf"; did you mean --kvbench-root {root}\?$"):
        image_folder(root / "train" / "cat", "train")


def test_a_file_in_the_place_of_the_root_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"data\.zip is a file: unpack it, and name the folder, which holds train"):
        need_folder(tmp_path / "data.zip", "folder", "train/<class>/")


def test_imagenet_that_lies_deeper_or_without_folders_of_classes_is_told(tmp_path: Path) -> None:
    draw_imagenet(tmp_path / "ILSVRC" / "Data")
    with pytest.raises(UserError, match=rf"found ILSVRC: did you mean --kvbench-root {tmp_path}/ILSVRC/Data\?$"):
        imagenet(tmp_path, "train")
    flat = draw_imagenet(tmp_path / "flat")
    shutil.rmtree(flat / "val")
    draw(flat / "val" / "1.JPEG")
    with pytest.raises(UserError, match="put the images of each class into a folder named by its WordNet id"):
        imagenet(flat, "val")


def test_tiny_imagenet_takes_another_usual_name_of_its_split(tmp_path: Path) -> None:
    root = draw_tiny_imagenet(tmp_path)
    count = len(tiny_imagenet(root, "val")[0])
    (root / "val").rename(root / "valid")
    assert len(tiny_imagenet(root, "val")[0]) == count


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints"])
def test_what_systems_leave_is_no_class(name: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    expected = image_folder(root, "train")
    draw(root / "train" / name / "0.png")
    draw(root / "train" / "cat" / name / "0.png")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"")
    (root / "train" / "Thumbs.db").write_bytes(b"")
    with logged() as messages:
        assert image_folder(root, "train") == expected
    assert messages == []


def test_files_that_are_passed_over_for_their_suffix_are_counted(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, each=2)
    for i in range(24):
        suffix = "jfif" if i < 20 else "gif" if i < 23 else ""
        (root / "train" / "cat" / f"{i}.{suffix}".rstrip(".")).write_bytes(b"")
    (root / "train" / "cat" / "labels.txt").write_text("no image")
    with logged() as messages:
        samples, _ = image_folder(root, "train")
    assert len(samples) == 4
    assert messages == [
        f"{root / 'train'}: 24 of 28 files are passed over for their suffixes (.jfif: 20, .gif: 3, no suffix: 1), in"
        " cat 24 of 26. Images are: .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp."
    ]
    for i in range(2):
        (root / "train" / "cat" / f"{i}.png").unlink()
    with pytest.raises(
        UserError, match=r"for a class: cat\. Valid suffixes: .*; found are \.jfif: 20, \.gif: 3, no suffix: 1\."
    ):
        image_folder(root, "train")


def test_images_beside_the_classes_are_counted(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    draw(root / "train" / "stray.png")
    with logged() as messages:
        assert len(image_folder(root, "train")[0]) == 6
    assert messages == [f"{root / 'train'}: 1 images lie beside the class folders and are passed over."]
    for name in ("cat", "dog"):
        shutil.rmtree(root / "train" / name)
    with pytest.raises(UserError, match="1 images lie in it, put them into one folder for each class"):
        image_folder(root, "train")


def test_a_class_that_is_a_broken_link_is_told(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    (root / "train" / "cow").symlink_to("/gone/cow")
    with pytest.raises(UserError, match=rf"The link {root}/train/cow leads to nothing"):
        image_folder(root, "train")


@pytest.mark.parametrize("inner", ["", "images"])
@pytest.mark.parametrize("annotations", [True, False])
@pytest.mark.parametrize("emptied", [True, False])
def test_tiny_imagenets_val_may_have_a_folder_for_each_class(
    inner: str, annotations: bool, emptied: bool, tmp_path: Path
) -> None:
    root = draw_tiny_imagenet(tmp_path)
    for i in range(3):
        (root / "val" / WNIDS[i % 2] / inner).mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / f"val_{i}.JPEG").rename(root / "val" / WNIDS[i % 2] / inner / f"val_{i}.JPEG")
    if not emptied:
        (root / "val" / "images").rmdir()
    if not annotations:
        (root / "val" / "val_annotations.txt").unlink()
    samples, classes = tiny_imagenet(root, "val")
    assert classes == WNIDS
    assert [(Path(path).name, k) for path, k in samples] == [("val_0.JPEG", 0), ("val_2.JPEG", 0), ("val_1.JPEG", 1)]


def test_an_imagenet_without_its_class_list_names_what_is_missing(tmp_path: Path) -> None:
    root = draw_imagenet(tmp_path)
    (root / "meta.bin").unlink()
    with pytest.raises(UserError, match=r"put ILSVRC2012_devkit_t12\.tar\.gz beside train/ and val/.*workload folder"):
        imagenet(root, "val")


def test_an_imagenet_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    draw_imagenet(tmp_path / "ILSVRC")
    with pytest.raises(UserError, match=rf"found ILSVRC: did you mean --kvbench-root {tmp_path}/ILSVRC\?"):
        imagenet(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s12--ab.jpg\n", "a git-annex pointer.*git annex get"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html>404</html>", "a web page.*download it again"),
        (b"<HTML><body>403</body></HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b'{"error": "not found"}', "a JSON document"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"\0\0\0\x1cftypavif" + bytes(60), "AVIF, which is not read: convert"),
        (b"\0\0\0\x1cftypheic" + bytes(60), "HEIC, which is not read: convert"),
        (bytes(100), "first bytes are all zero"),
        (b"", "it is empty"),
        (b"hello", "it is none of JPEG"),
    ],
)
def test_a_file_that_is_no_image_is_told_for_what_it_is(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as caught:
        decode(str(path), 8)
    assert caught.value.lasting


def test_switches_of_pillow_decide_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw(tmp_path / "a.jpg", size=(64, 64))
    whole = decode(str(path), 64).tobytes()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(str(path), 64).tobytes() == whole
    assert Image.MAX_IMAGE_PIXELS == 10
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UnreadableError, match="truncated"):
        decode(str(path), 64)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_files_are_asked_for_their_facts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_folder(tmp_path)
    images = PhotoImages(*image_folder(root, "train"), 8, root)
    first = images.fingerprint, images.mtime_digest

    def refuse(*_: object) -> None:
        raise AssertionError("a file was asked again")

    monkeypatch.setattr("kvbench.data.photos.os.stat", refuse)
    assert (images.fingerprint, images.mtime_digest) == first
    assert images.survey.sizes.shape == (6,)


def test_a_name_is_the_path_below_the_root_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "data")
    for root in (Path("data"), Path("./data/"), tmp_path / "data", Path("data/train/../../data")):
        for path in (
            f"{root}/train/cat/0.png",
            f"{root}//train/./cat/0.png",
            f"{tmp_path}/data/val/../train/cat/0.png",
        ):
            assert PhotoImages([(path, 0)], ("cat",), 8, root).name(0) == "train/cat/0.png"
    assert PhotoImages([("data/train/cat/0.png", 0)], ("cat",), 8).name(0) == "data/train/cat/0.png"
    assert torch.equal(*(PhotoImages([("data/train/cat/0.png", 0)], ("c",), 8).__getitems__([0])[0] for _ in range(2)))
