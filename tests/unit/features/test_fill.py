"""One pass for several teachers: each image is read once, and every bank is that of a pass of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.data import photos
from kvbench.data.base import Transform
from kvbench.data.layouts import image_folder
from kvbench.data.loader import batches, batches_for
from kvbench.data.photos import PhotoImages
from kvbench.features import extract
from kvbench.features.fill import fill, open_bank
from kvbench.features.spec import BankSettings
from kvbench.features.store import Store
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from tests.support.banks import CPU, Dots, content, passes, tiny_settings, tiny_teacher
from tests.support.photos import draw_folder

pytestmark = pytest.mark.usefixtures("small_parts")
COUNT = 300  # parts of 128, 128 and 44 rows
SIDES: list[dict[str, Any]] = [{}, {"precision": "bfloat16"}, {"taps": ("first",)}]


class Counted(Dots):
    """Counts what is read of it."""

    read = 0

    def __getitems__(self, indices: list[int]) -> Any:
        self.read += len(indices)
        return super().__getitems__(indices)


def stores(cache: Path, images: Dots) -> list[Store]:
    """Three banks of the same images, each in a cache of its own."""
    return [
        Store(tiny_settings(images=images, teacher=tiny_teacher(), **side), cache / str(k), "a")
        for k, side in enumerate(SIDES)
    ]


def test_each_image_is_read_once_and_every_bank_is_that_of_a_pass_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "check_repeatable", lambda _: None)  # which reads some, too
    for one in stores(tmp_path / "alone", Dots(COUNT)):
        open_bank(one, CPU)
    images, reports = Counted(COUNT), list[Progress]()
    together = stores(tmp_path / "together", images)
    looked = 3 * 3  # the first image for the taps' layouts, and two for the teacher's check, of each
    assert fill(together, range(3), CPU, reports.append)
    assert images.read == COUNT + looked
    assert [report.done for report in reports] == [128, 256, 300]
    for k in range(3):
        assert content(tmp_path / "together" / str(k)) == content(tmp_path / "alone" / str(k))
    assert not fill(together, range(3), CPU)


def test_whoever_fills_a_bank_part_by_part_checks_teacher_and_images_once(tmp_path: Path) -> None:
    images = Counted(COUNT)
    (one, *_) = stores(tmp_path, images)
    read = []
    for part in range(3):
        fill([one], [part], CPU)
        read.append(images.read)
    assert read[0] > 128
    assert [read[1] - read[0], read[2] - read[1]] == [128, 44]


def test_what_some_banks_have_is_passed_for_the_others_alone(tmp_path: Path) -> None:
    whole = stores(tmp_path / "whole", Dots(COUNT))
    fill(whole, range(3), CPU)
    fill(stores(tmp_path / "some", Dots(COUNT))[:1], [0, 2], CPU)
    fill(stores(tmp_path / "some", Dots(COUNT))[1:2], [2], CPU)
    again = stores(tmp_path / "some", Dots(COUNT))
    fill(again, range(3), CPU)
    assert [passes(one.settings) for one in again] == [1, 2, 3]
    for k in range(3):
        assert content(tmp_path / "some" / str(k)) == content(tmp_path / "whole" / str(k))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_photograph_is_decoded_once_for_all_ways_to_prepare_it(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = image_folder(draw_folder(tmp_path / "data"), "train")
    plain = PhotoImages(*listed, 8, tmp_path / "data")
    every = [plain, replace(plain, size=12), replace(plain, transform=Transform(9, "bicubic", (0.5,) * 3, (0.5,) * 3))]
    every.append(replace(plain))
    expected = [list(batches(images, 4, workers=0)) for images in every]
    decode, log = photos.decode, tmp_path / "decoded"

    def counted(path: str, size: int) -> Any:
        with log.open("a") as file:  # from other processes, too
            file.write(f"{path}\n")
        return decode(path, size)

    monkeypatch.setattr(photos, "decode", counted)
    found = list(batches_for(every, 4, workers=workers))
    assert sorted(log.read_text().split()) == sorted(path for path, _ in plain.samples)
    for number, parts in enumerate(found):
        for (x, y), alone in zip(parts, expected, strict=True):
            assert torch.equal(x, alone[number][0])
            assert torch.equal(y, alone[number][1])
    assert found[0][0][0] is found[0][3][0], "what is prepared alike is one tensor"


def test_other_images_are_refused(tmp_path: Path) -> None:
    listed = image_folder(draw_folder(tmp_path), "train")
    plain = PhotoImages(*listed, 8, tmp_path)
    for other in (replace(plain, samples=plain.samples[::-1]), Dots(6), Dots(5)):
        with pytest.raises(UserError, match="One pass for several teachers needs the same images for each"):
            next(batches_for([plain, other], 4, workers=0))


def test_a_teacher_that_fails_is_named_whatever_is_beside_it(tmp_path: Path) -> None:
    broken = tiny_teacher()
    with torch.no_grad():
        broken.module.get_parameter("fc.bias")[3] = float("nan")
    settings = [tiny_settings(COUNT), BankSettings(Dots(COUNT), replace(broken, name="broken"), ("first",))]
    with pytest.raises(UserError, match="The teacher broken gives logits that are not finite"):
        fill([Store(one, tmp_path / one.teacher.name, "a") for one in settings], range(3), CPU)
