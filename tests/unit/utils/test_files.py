"""Files appear whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kvbench.utils.files import write_whole


def test_the_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    with write_whole(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert aside.parent == path.parent, "a rename between file systems would not be atomic"
        assert aside.suffix == ".csv"
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def half_write(path: Path, error: type[BaseException]) -> None:
    with write_whole(path) as aside:
        aside.write_text("half")
        raise error


def test_after_an_error_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        half_write(tmp_path / "table.csv", ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        half_write(path, KeyboardInterrupt)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with write_whole(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").stat().st_mode == plain.stat().st_mode


def test_threads_that_write_side_by_side_leave_the_mask_as_it_was(tmp_path: Path) -> None:
    def write(place: int) -> None:
        for _ in range(20):
            with write_whole(tmp_path / str(place), forced=False) as aside:
                aside.write_text("whole")

    before = os.umask(0o027)
    try:
        threads = [threading.Thread(target=write, args=(place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(place) for place in range(8)]
