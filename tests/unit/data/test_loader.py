"""Batches of images: with and without worker processes, and what stops them."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvbench.data import loader as data
from kvbench.data.layouts import image_folder
from kvbench.data.loader import batches, in_batches
from kvbench.data.photos import PhotoImages
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support.photos import draw_folder


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
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 128)  # of the machine; a container may have 64 of them, or 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(64)}, raising=False)
    list(batches(photos(tmp_path), 4))
    list(batches(WORKLOADS["fractals"].images("val", None, 3), 4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    list(batches(photos(tmp_path), 4))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray has it for a worker with one processor
    list(batches(photos(tmp_path), 4))
    assert workers == [16, 0, 2, 1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_workers_hand_over_is_small_and_may_be_written_to(tmp_path: Path) -> None:
    images = photos(tmp_path)
    ((pixels, labels),) = in_batches(images.decode, range(6), 6, workers=1)
    assert (pixels.dtype, pixels.shape, labels.dtype) == ("uint8", (6, 3, 8, 8), "int64")
    ((x, y),) = batches(images, 6, workers=1)
    x += 1
    y += 1


def fails(indices: list[int]) -> list[int]:
    raise UserError("It cannot be read.")


def test_after_an_error_nothing_of_the_readers_is_left_to_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(UserError, match="It cannot be read") as told:
            list(in_batches(fails, range(40), 2, workers=1))
        left = [one for one in gc.get_objects() if type(one).__name__ == "_MultiProcessingDataLoaderIter"]
    finally:
        gc.enable()
    assert told.tb is not None
    assert left == []


class Drawn:
    """Images of a user's own, one of which went wrong."""

    classes, fingerprint, mtime_digest = ("a", "b"), {"images": "drawn"}, ""

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


def kill_reader(indices: list[int]) -> list[int]:
    if 7 in indices:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    return indices


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reading_process_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^A process that reads images ended unexpectedly.*ran out of memory.*taskset"):
        list(in_batches(kill_reader, range(20), 2, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_random_numbers_alone(workers: int, tmp_path: Path) -> None:
    images = photos(tmp_path)
    before = torch.get_rng_state()
    list(batches(images, 4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
