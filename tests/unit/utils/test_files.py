"""Files are replaced in one step or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kvbench.utils.files import TMP, atomic_write


def test_the_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_write(path) as tmp:
        tmp.write_text("complete")
        assert not path.exists()
        assert tmp.parent == path.parent, "a rename between file systems would not be atomic"
        assert tmp.suffix == ".csv"
    assert path.read_text() == "complete"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def half_write(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as tmp:
        tmp.write_text("half")
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
    with atomic_write(tmp_path / "complete"):
        pass
    assert (tmp_path / "complete").stat().st_mode == plain.stat().st_mode


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    def write(place: int) -> None:
        for _ in range(20):
            with atomic_write(tmp_path / str(place % 2), fsync=False) as tmp:
                tmp.write_text("complete")

    threads = [threading.Thread(target=write, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == [
        ("0", "complete"),
        ("1", "complete"),
    ]


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX's")
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path: Path) -> None:
    (tmp_path / f"{TMP}0123456789ab.csv").write_text("of a killed process")
    (tmp_path / ".hidden").write_text("the user's")
    with atomic_write(tmp_path / "first") as first:
        first.write_text("in use")
        with atomic_write(tmp_path / "second"):
            pass
        assert first.read_text() == "in use"
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".hidden", "second", first.name])
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "first", "second"}


def test_a_file_that_was_taken_for_abandoned_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def remove_first(fd: int, operation: int) -> None:
        if not taken:
            taken.append(fd)
            for path in tmp_path.glob(f"{TMP}*"):
                path.unlink()

    monkeypatch.setattr("kvbench.utils.files.flock", remove_first)
    with atomic_write(tmp_path / "table.csv") as tmp:
        tmp.write_text("complete")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["complete"]
    assert taken


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("kvbench.utils.files.flock", refuse)
    with atomic_write(tmp_path / "a") as tmp, atomic_write(tmp_path / "b"):
        tmp.write_text("complete")
    assert (tmp_path / "a").read_text() == "complete"
