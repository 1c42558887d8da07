"""Odd folders of photographs: what is listed and trains, or the sentence that refuses them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvbench.core.trainer import Training
from kvbench.data.contract import check_splits
from kvbench.data.layouts import image_folder, imagenet, tiny_imagenet
from kvbench.data.photos import PhotoImages
from kvbench.harness.setup import Banks, Settings
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support import tiny_resnet
from tests.support.photos import WNIDS, draw, draw_folder, draw_tiny_imagenet, nobody
from tests.support.trainer import config

CPU = torch.device("cpu")


def names(root: Path, split: str = "train") -> list[str]:
    samples, _ = image_folder(root, split)
    return [Path(path).relative_to(root / split).as_posix() for path, _ in samples]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder_is_named(split: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    (root / split / "cow").mkdir()
    with pytest.raises(UserError, match=rf"No images in {root / split} for a class: cow\. Valid suffixes: \.jpg, "):
        image_folder(root, split)
    for number in range(7):
        (root / split / f"empty{number}").mkdir()
    with pytest.raises(UserError, match=r"for 8 classes: cow, empty0, empty1, empty2, empty3 and 3 more\."):
        image_folder(root, split)


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, each=1)
    draw(root / "train" / ".ipynb_checkpoints" / "0.png")
    draw(root / "train" / "cat" / ".thumbnails" / "0.png")
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "._0.png")
    assert names(root) == ["cat/0.png", "dog/0.png"]
    assert image_folder(root, "train")[1] == ("cat", "dog")


def test_suffixes_count_in_any_case_and_other_files_do_not(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, each=1)
    draw(root / "train" / "cat" / "1.PNG")
    draw(root / "train" / "cat" / "2.JPeG")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    assert names(root) == ["cat/0.png", "cat/1.PNG", "cat/2.JPeG", "dog/0.png"]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, each=1)
    draw(root / "train" / "cat" / "more.png" / "1.png")
    assert names(root) == ["cat/0.png", "cat/more.png/1.png", "dog/0.png"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", each=1)
    draw(tmp_path / "elsewhere" / "1.png")
    (root / "train" / "cat" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(root) == ["cat/0.png", "cat/link/1.png", "dog/0.png"]


@pytest.mark.parametrize("target", [".", "..", "../../.."])
def test_a_link_round_in_a_circle_is_named_and_not_walked_again_and_again(target: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    (root / "train" / "cat" / "round").symlink_to(target)
    with pytest.raises(UserError, match=r"The link .*cat/round leads to a folder that it lies in"):
        image_folder(root, "train")


def test_a_folder_that_may_not_be_listed_is_named_and_not_taken_for_empty(open_folder: Path) -> None:
    root = draw_folder(open_folder)
    draw(root / "train" / "cat" / "locked" / "1.png")
    (root / "train" / "cat" / "locked").chmod(0)
    with nobody(), pytest.raises(UserError, match=r"Cannot list the folder .*cat/locked: Permission denied"):
        image_folder(root, "train")
    (root / "train").chmod(0)
    with nobody(), pytest.raises(UserError, match=r"Cannot list the folder .*train: Permission denied"):
        image_folder(root, "train")


def opened(root: Path, split: str) -> PhotoImages:
    return PhotoImages(*image_folder(root, split), 8, root)


def test_classes_of_one_split_alone_are_named_with_their_side(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    draw(root / "val" / "cow" / "0.png")
    with pytest.raises(UserError, match=rf"different classes in {root}; only in val: cow\."):
        check_splits(opened(root, "train"), opened(root, "val"), root)
    shutil.rmtree(root / "val" / "dog")
    (root / "val" / "dog").write_text("a file where a class should be")
    draw(root / "train" / "a\nb" / "0.png")
    with pytest.raises(UserError, match=r"only in train: a\\nb, dog; only in val: cow\."):
        check_splits(opened(root, "train"), opened(root, "val"), root)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, ("cat",))
    with pytest.raises(UserError, match=rf"There is one class in {root}, cat: .*At least two"):
        check_splits(opened(root, "train"), opened(root, "val"), root)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (f"0.png\t{WNIDS[0]}\n1.png\t{WNIDS[0]}\n0.png\t{WNIDS[1]}\n", r"line 3: '0\.png' is listed .*in line 1"),
        (f"../../up.JPEG\t{WNIDS[0]}\n", r"line 1: '\.\./\.\./up\.JPEG' is no name of a file"),
        (f"\t{WNIDS[0]}\n", "line 1: '' is no name of a file"),
        (f"..\t{WNIDS[0]}\n", r"line 1: '\.\.' is no name of a file"),
        ("a\x1b\tn\x1b\n", r"line 1: 'n\\x1b' is no class folder"),
        ("\n", "line 1: '' is no class folder"),
    ],
)  # fmt: skip
def test_odd_lines_of_tiny_imagenets_annotations_are_numbered(lines: str, told: str, tmp_path: Path) -> None:
    root = draw_tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").write_text(lines)
    with pytest.raises(UserError, match=told):
        tiny_imagenet(root, "val")


def test_annotations_in_another_encoding_are_bytes_of_names(tmp_path: Path) -> None:
    root = draw_tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").write_bytes(b"caf\xe9.JPEG\t" + WNIDS[0].encode() + b"\r\n")
    ((path, label),) = tiny_imagenet(root, "val")[0]
    assert Path(path).name.encode(errors="surrogateescape") == b"caf\xe9.JPEG"
    assert label == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_imagenet_without_images_of_a_class_is_told(split: str, tmp_path: Path) -> None:
    for wnid in WNIDS:
        draw(tmp_path / split / wnid / "1.JPEG")
    torch.save((dict.fromkeys(WNIDS, ("fish",)), [WNIDS[0]]), tmp_path / "meta.bin")
    (tmp_path / split / WNIDS[0] / "1.JPEG").unlink()
    with pytest.raises(UserError, match=rf"torchvision cannot open ImageNet \({split}\).*{WNIDS[0]}"):
        imagenet(tmp_path, split)


# What trains


def open_small(root: Path, cache: Path, checkpoint: Path) -> Banks:
    row = replace(WORKLOADS["folder"], arch=tiny_resnet.NAME, size=32)
    return Settings(row, CPU, cache, root, checkpoint=checkpoint).open_banks()


def test_one_image_a_class_trains_though_it_is_less_than_a_batch(small_checkpoint: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", tuple(f"c{i}" for i in range(10)), each=1)
    banks = open_small(root, tmp_path / "cache", small_checkpoint)
    assert (len(banks.train), len(banks.val)) == (10, 10)
    chosen = config(epochs=3)
    training = Training(chosen, banks.train, banks.val, (0, 1))
    training.finish()
    losses = [row["train_loss"] for row in training.history if row["seed"] == 0]
    assert len(losses) == 3
    assert losses[2] < losses[0]


def test_one_class_stops_before_anything_is_written(small_checkpoint: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", ("cat",))
    with pytest.raises(UserError, match="There is one class"):
        open_small(root, tmp_path / "cache", small_checkpoint)
    assert not (tmp_path / "cache").exists()
