"""Batches of images: with and without worker processes, and what stops them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest_photographs import draw_folder

from kvbench import data
from kvbench.data import batches
from kvbench.errors import UserError
from kvbench.listing import image_folder
from kvbench.photographs import PhotoImages
from kvbench.workloads import WORKLOADS


def photos(root: Path) -> PhotoImages:
    return PhotoImages(*image_folder(draw_folder(root), "train"), 8, root)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one processor
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
    monkeypatch.setattr(os, "cpu_count", lambda: 128)  # of the machine; a container may have 64 of them, or 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(64)}, raising=False)
    list(batches(photos(tmp_path), 4))
    list(batches(WORKLOADS["fractals"].images("val", None, 3), 4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    list(batches(photos(tmp_path), 4))
    assert workers == [16, 0, 2]


class Drawn:
    """Images of a user's own, one of which went wrong."""

    classes, fingerprint, stamp = ("a", "b"), {"images": "drawn"}, ""

    def __init__(self, wrong: float):
        self.wrong = wrong

    def __len__(self) -> int:
        return 6

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.zeros(len(indices), 3, 4, 4)
        images[[index == 4 for index in indices], 1, 2, 3] = self.wrong
        return images, torch.tensor([index % 2 for index in indices])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_an_image_with_values_that_are_not_finite_is_named(wrong: float) -> None:
    assert len(list(batches(Drawn(0.5), 3))) == 2
    with pytest.raises(UserError, match=r"Image 4 of Drawn has values that are not finite"):
        list(batches(Drawn(wrong), 3))
