"""Saved runs by number and by name, as pytest-benchmark has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.results.storage import files, find, is_file
from kvbench.utils.errors import UserError

LINUX, DARWIN = "Linux-CPython-3.11-64bit", "Darwin-CPython-3.12-64bit"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    names = ("0001_main", "0002_patch_1", "0010_main", "0011_last", "notes")
    for path in [tmp_path / LINUX / f"{name}.json" for name in names] + [tmp_path / DARWIN / "0003_mac.json"]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2", "0002_patch_1"), ("0002", "0002_patch_1"), ("10", "0010_main"), ("patch_1", "0002_patch_1"),
        ("0002_patch_1", "0002_patch_1"), ("0002_patch_1.json", "0002_patch_1"), ("0002_pa", "0002_patch_1"),
        ("mac", "0003_mac"), (f"{DARWIN}/0003", "0003_mac"), ("notes", "notes"),
    ],
)  # fmt: skip
def test_a_run_is_found_by_its_number_its_name_or_how_its_file_begins(text: str, name: str, saved: Path) -> None:
    found = find(text, saved)
    assert found is not None
    assert found.stem == name


@pytest.mark.parametrize("text", ["1000", "other", "", f"{LINUX}/0003", "a/b/c", "../0001", "*", "\0", "²"])
def test_what_names_none_finds_none(text: str, saved: Path) -> None:
    assert find(text, saved) is None


def test_a_name_that_several_have_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"Several saved runs fit 'main': .*0001_main\.json, .*0010_main\.json"):
        find("main", saved)


def test_files_are_in_the_order_of_saving_machine_by_machine(saved: Path) -> None:
    assert [path.stem for path in files(saved)] == [
        "0003_mac", "0001_main", "0002_patch_1", "0010_main", "0011_last", "notes"
    ]  # fmt: skip
    assert files(saved / "nowhere") == []


def test_no_text_is_too_odd_to_be_no_file() -> None:
    assert not any(is_file(Path(text)) for text in ("", "\0", "x" * 5000, "a/b"))
