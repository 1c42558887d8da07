"""Disks that are small or read-only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
from kvbench.data.validate import in_both, readable
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from tests.support.banks import (
    CPU,
    assert_equal,
    flip,
    in_memory,
    left,
    open_bank,
    part_of,
    passes,
    tiny_settings,
    tmpfs,
)
from tests.support.photos import draw_folder

pytestmark = [
    pytest.mark.usefixtures("small_parts"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
COUNT = 300  # parts of 128, 128 and 44 rows


def test_a_small_disk_is_told_at_once_with_what_is_needed_and_free(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16k"):
        settings = tiny_settings(COUNT)
        with pytest.raises(UserError, match=r"it needs 26,400 bytes, and \d{1,2},?\d{3} are free.*--kvbench-cache"):
            open_bank(settings, tmp_path / "disk", "a", CPU)
        assert passes(settings) == 1
        assert left(tmp_path / "disk") == []


def test_a_disk_that_fills_up_keeps_whole_parts_and_goes_on_with_room(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "64k") as remount:

        def fill_up(progress: Progress) -> None:
            if progress.done == 128:
                (tmp_path / "disk" / "other").write_bytes(bytes(shutil.disk_usage(tmp_path / "disk").free - 4096))

        with pytest.raises(UserError, match=r"^Cannot write .*part-0000\d\.safetensors: No space left on device\.$"):
            open_bank(tiny_settings(COUNT), tmp_path / "disk", "a", CPU, fill_up)
        assert left(tmp_path / "disk") == ["other", "0"]
        remount("size=1m")
        settings = tiny_settings(COUNT)
        assert_equal(open_bank(settings, tmp_path / "disk", "a", CPU), in_memory(tiny_settings(COUNT)))
        assert passes(settings) == 2


def test_a_read_only_disk_gives_its_banks_and_takes_none(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as remount:
        settings = tiny_settings(COUNT)
        made = open_bank(settings, tmp_path / "disk", "a", CPU)
        part = part_of(settings, tmp_path / "disk", 2)
        remount("ro")
        assert_equal(open_bank(tiny_settings(COUNT), tmp_path / "disk", "a", CPU), made)
        with pytest.raises(UserError, match=r"^Cannot write to the folder .*disk/a-\w+: Read-only file system\.$"):
            open_bank(tiny_settings(20), tmp_path / "disk", "a", CPU)
        remount("rw")
        part.touch()
        remount("ro")
        assert_equal(open_bank(tiny_settings(COUNT), tmp_path / "disk", "a", CPU), made)
        remount("rw")
        flip(part, -1)
        remount("ro")
        with pytest.raises(
            UserError, match=r"cannot be used: part-00002\.\w+ \(.*\) damaged \(.*\)\. Cannot write to the folder"
        ):
            open_bank(tiny_settings(COUNT), tmp_path / "disk", "a", CPU)


def test_beside_whole_banks_the_cache_may_be_read_only(tmp_path: Path) -> None:
    root, cache = draw_folder(tmp_path / "data"), tmp_path / "cache"
    (root / "train" / "cat" / "1.png").write_bytes(b"hello")

    def usable() -> int:
        return len(readable(PhotoImages(*image_folder(root, "train"), 8, root), "train", cache, "mine")[0])

    with tmpfs(cache, "1m") as remount:
        assert usable() == 5
        remount("ro")
        assert usable() == 5
        shutil.copy(root / "train" / "cat" / "2.png", root / "val" / "dog" / "0.png")
        train, val = (PhotoImages(*image_folder(root, split), 8, root) for split in ("train", "val"))
        assert in_both(train, val, cache, "mine").startswith("1 of 6 val images are train images, too")
