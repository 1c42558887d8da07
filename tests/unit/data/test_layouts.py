"""Photographs in folders: layouts, and what is wrong with them told in a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kvbench.data.layouts import image_folder, imagenet, subset, tiny_imagenet
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support.photos import WNIDS, draw, draw_folder, draw_imagenet, draw_tiny_imagenet


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


def test_a_damaged_class_list_of_imagenet_is_a_sentence(tmp_path: Path) -> None:
    meta = draw_imagenet(tmp_path) / "meta.bin"
    draws = random.Random(0)
    causes = set()
    for legacy in (False, True):
        names = {WNIDS[0]: ("goldfish",), WNIDS[1]: ("salamander",)}
        torch.save((names, [*WNIDS]), meta, _use_new_zipfile_serialization=not legacy)
        sound = meta.read_bytes()
        for _ in range(300):
            wrong = bytearray(sound)
            wrong[draws.randrange(len(wrong))] ^= 1 << draws.randrange(8)
            meta.write_bytes(wrong[: draws.choice([len(wrong), draws.randrange(len(wrong))])])
            try:
                assert imagenet(tmp_path, "val")[1] == WNIDS
            except UserError as error:
                assert str(error).startswith(f"torchvision cannot open ImageNet (val) in {tmp_path}: ")  # noqa: PT017
                causes.add(type(error.__cause__))
    assert len(causes) > 3


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


def test_the_real_photographs_are_all_there(tiny_imagenet_root: Path) -> None:
    row = WORKLOADS["tiny-imagenet"]
    for split, count in (("train", 100_000), ("val", 10_000)):
        images = row.images(split, tiny_imagenet_root, None)
        assert len(images) == count
        assert len(images.classes) == 200
        pixels, labels = images.__getitems__([*range(0, count, count // 64)][:64])
        assert pixels.shape == (64, 3, 64, 64)
        assert len(torch.unique(labels)) > 30
        assert -3 < float(pixels.mean()) < 3
        assert 0.5 < float(pixels.std()) < 2
