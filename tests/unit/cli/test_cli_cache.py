"""``kvbench cache``: what it lists, what it removes, and all that it must leave alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
from kvbench.data.validate import in_both, readable
from kvbench.features import store
from kvbench.harness import cache
from kvbench.harness.cache import KINDS, look, read_age
from kvbench.harness.kept import Kept
from kvbench.studies import registry
from kvbench.utils.errors import UserError
from kvbench.utils.files import TMP, atomic_write
from tests.support import grids, photos, tiny
from tests.support.banks import CPU, open_bank, tiny_settings
from tests.support.commands import Call

CACHE = Path(".kvbench")
OLD = 40 * 86400


@pytest.fixture
def full(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A cache with an entry of each kind, made by those who make them; a command to call there."""
    tiny.register(monkeypatch)
    monkeypatch.setitem(registry.BUILT_IN, grids.STUDY.name, grids.STUDY)
    open_bank(tiny_settings(), CACHE, "tiny-train", CPU)
    told = call("sweep", "--study", "formulas", "--device", "cpu", "--seeds", "3", "--set", "lr=0.02,0.08")
    assert told.code == 0, told.err
    photos.draw_folder(Path("photos"))
    splits = [PhotoImages(*image_folder(Path("photos"), split), 8, Path("photos")) for split in ("train", "val")]
    in_both(splits[0], splits[1], CACHE, "folder")
    readable(splits[0], "train", CACHE, "folder")
    task = Kept(CACHE / "trainings" / "tiny", tiny.EXPERIMENT.configurations[0], {"code": "mine"})
    task.write({0: "It diverged."})
    folder = CACHE / "checkpoints" / "tiny-0123456789abcdef" / "Model1-01234567"
    folder.mkdir(parents=True)
    (folder / "seed-0.safetensors").write_bytes(b"0123456789")
    return call


def age(path: Path, seconds: float = OLD) -> None:
    """Let everything below a path be as old."""
    for one in (path, *path.rglob("*")):
        os.utime(one, (time.time() - seconds,) * 2, follow_symlinks=False)


def files(folder: Path = CACHE) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def test_every_kind_that_kvbench_leaves_is_listed_with_its_size(full: Call) -> None:
    listing = look(CACHE)
    assert {entry.kind for entry in listing.entries} == {*KINDS}
    assert {file.path for entry in listing.entries for file in entry.files} == files(), "and nothing is overlooked"
    assert listing.others == listing.problems == ()
    told = full("cache", "list")
    assert told.code == 0
    assert "| tiny, float32, first second |" in told.out
    total = sum((CACHE / name).stat().st_size for name in files())
    assert told.out.rstrip().endswith(f"6 of 6 entries of .kvbench, {total / 1000:.1f} kB.")
    only = full("cache", "list", "--kind", "bank", "--kind", "checkpoint").out
    assert [name in only for name in ("tiny-train-", "checkpoints/tiny-", "sweeps/")] == [True, True, False]


def test_clean_says_what_it_would_remove_and_removes_what_it_said(full: Call) -> None:
    age(CACHE)
    before = files()
    told = full("cache", "clean", "--kind", "bank", "--dry-run")
    assert told.code == 0
    assert "tiny-train-" in told.out
    assert "sweeps" not in told.out
    assert files() == before
    refused = full("cache", "clean", "--kind", "bank")
    assert (refused.code, files()) == (2, before)
    assert "repeat it with --yes, or with --dry-run" in refused.err
    told = full("cache", "clean", "--kind", "bank", "--yes")
    assert told.code == 0
    assert "Removed: " in told.out
    assert files() == {name for name in before if not name.startswith("tiny-train-")}
    told = full("cache", "clean", "--yes")
    assert told.code == 0
    assert [*CACHE.iterdir()] == [], "no empty folder is left"
    assert full("cache", "clean", "--yes").out.strip() == "0 of 0 entries of .kvbench, 0 B."


@pytest.mark.parametrize(("answer", "gone"), [(True, True), (False, False)])
def test_clean_asks_somebody_at_a_terminal(
    full: Call, monkeypatch: pytest.MonkeyPatch, answer: bool, gone: bool
) -> None:
    age(CACHE)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda _: answer)
    assert full("cache", "clean", "sweeps/*").code == 0
    assert (CACHE / "sweeps").exists() is not gone
    assert look(CACHE).select(kinds=["bank"])


def test_clean_takes_what_nothing_has_used_for_a_while(full: Call) -> None:
    before = files()
    assert full("cache", "clean", "--yes").code == 0
    assert files() == before, "all of it is new"
    age(CACHE)
    open_bank(tiny_settings(), CACHE, "tiny-train", CPU)
    assert full("cache", "clean", "--yes", "--older-than", "30d").code == 0
    assert {name.partition("-")[0] for name in files()} == {"tiny"}, "a bank that was opened again is in use"
    assert full("cache", "clean", "--yes", "--older-than", "0").code == 0
    assert files() == set()


def test_nothing_is_removed_that_is_not_kvbenchs_own(full: Call, tmp_path: Path) -> None:
    bank = next(path for path in CACHE.iterdir() if path.name.startswith("tiny-train-"))
    own = ["notes.txt", "report-tiny.md", "mine/part-00000.safetensors", "mine-0123456789abcdef/data.csv",
           f"{bank.name}/notes.txt", "sweeps/table.csv", "trainings/tiny/notes.json", "checkpoints/keep.safetensors",
           "checkpoints/tiny-0123456789abcdef/Model1-01234567/best.safetensors"]  # fmt: skip
    for name in own:
        (CACHE / name).parent.mkdir(exist_ok=True)
        (CACHE / name).write_text("mine")
    told = full("cache", "list")
    assert "Never removed" in told.out
    assert full("cache", "clean", "--yes", "--older-than", "0").code == 0
    assert files() == set(own)


def test_no_link_is_followed(full: Call, tmp_path: Path) -> None:
    outside = tmp_path / "outside-0123456789abcdef"
    outside.mkdir()
    (outside / "part-00000.safetensors").write_text("elsewhere")
    (CACHE / "linked-0123456789abcdef").symlink_to(outside)
    (CACHE / "sweeps" / "linked").symlink_to(outside)
    bank = next(path for path in CACHE.iterdir() if path.name.startswith("tiny-train-"))
    (bank / "part-00009.safetensors").symlink_to(outside / "part-00000.safetensors")
    assert full("cache", "clean", "--yes", "--older-than", "0").code == 0
    assert (outside / "part-00000.safetensors").read_text() == "elsewhere"
    links = {"linked-0123456789abcdef", "sweeps/linked", f"{bank.name}/part-00009.safetensors"}
    assert files() == links, "a link is nobody's to remove"


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(full: Call, tmp_path: Path) -> None:
    (entry,) = look(CACHE).select(kinds=["bank"])
    (CACHE / entry.name).rename(tmp_path / "moved")
    (CACHE / entry.name).symlink_to(tmp_path / "moved")
    before = files(tmp_path / "moved")
    assert cache.remove(CACHE, entry) != ""
    assert files(tmp_path / "moved") == before


def test_a_bank_that_a_pass_is_filling_stays(full: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROWS", 128)
    tries = []

    def clean(*_: object) -> None:
        tries.append(full("cache", "clean", "--yes", "--older-than", "0"))

    bank = open_bank(tiny_settings(300), CACHE, "other-train", CPU, clean)
    assert len(bank) == 300
    assert len(tries) == 3
    assert all(one.code == 0 for one in tries)
    assert all("other-train-" in one.out and "a running process writes to it" in one.err for one in tries)
    assert {name.partition("-")[0] for name in files()} == {"other"}, "all else went"
    assert full("cache", "clean", "--yes", "--older-than", "0").code == 0
    assert files() == set()


def test_a_file_that_is_being_written_stays_and_one_that_was_abandoned_goes(full: Call) -> None:
    folder = CACHE / "sweeps" / "mine-tiny"
    with atomic_write(folder / "a-0123456789abcdef.json") as tmp:
        tmp.write_text("{}")
        told = full("cache", "clean", "sweeps/*", "--yes", "--older-than", "0")
        assert "sweeps/mine-tiny is left, as a running process writes to it" in told.err
        assert tmp.exists()
    assert (folder / "a-0123456789abcdef.json").exists()
    (folder / f"{TMP}0123456789ab.json").write_text("{")
    assert full("cache", "clean", "sweeps/*", "--yes", "--older-than", "0").code == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--kind", "banks"), "Unknown kind of entry 'banks'. Did you mean bank?"),
        (("sweeps/none-*",), "Unknown entry of the cache 'sweeps/none-*'."),
        (("--older-than", "30"), "Cannot read the age '30': give a number with a unit, such as 90m, 12h, 30d or 2w"),
        (("--older-than", "-1d"), "Cannot read the age '-1d'"),
    ],
)
def test_what_makes_no_sense_is_told(full: Call, arguments: tuple[str, ...], sentence: str) -> None:
    before = files()
    for command in (("list",), ("clean", "--yes")):
        told = full("cache", *command, *arguments)
        assert told.code == 2
        assert sentence in told.err
    assert files() == before


def test_ages_are_read() -> None:
    assert [read_age(text) for text in ("0", "90m", "12h", "1d", "2w")] == [0, 5400, 43200, 86400, 1209600]
    for text in ("", "d", "1 d", "1y", "٣d", "1e3d"):
        with pytest.raises(UserError, match="Cannot read the age"):
            read_age(text)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda bank: (bank / "manifest.json").unlink(),
    "an empty manifest": lambda bank: (bank / "manifest.json").write_text(""),
    "no object": lambda bank: (bank / "manifest.json").write_text("[1]"),
    "other facts": lambda bank: (bank / "manifest.json").write_text(json.dumps({"bank": {"teacher": 3}})),
    "control characters": lambda bank: (bank / "manifest.json").write_text(
        json.dumps({"bank": {"teacher": {"name": "\x1b[31m"}, "precision": "|", "taps": ["a"]}})
    ),
    "no bytes": lambda bank: (bank / "part-00000.safetensors").write_bytes(b""),
    "a folder for a file": lambda bank: (bank / "part-00007.safetensors").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bank_is_listed_and_removed(full: Call, damage: str) -> None:
    bank = next(path for path in CACHE.iterdir() if path.name.startswith("tiny-train-"))
    DAMAGE[damage](bank)
    told = full("cache", "list")
    assert told.code == 0
    assert bank.name in told.out
    assert "\x1b" not in told.out
    assert full("cache", "clean", "tiny-train-*", "--yes", "--older-than", "0").code == 0
    assert not [name for name in files() if name.startswith("tiny-train-")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_told(full: Call) -> None:
    (CACHE / "sweeps").chmod(0)
    told = full("cache", "list")
    (CACHE / "sweeps").chmod(0o755)
    assert told.code == 0
    assert "sweeps cannot be read: Permission denied." in told.out


def test_a_cache_that_is_not_there_is_empty(call: Call) -> None:
    assert call("cache", "list", "--cache", "nowhere").out.strip() == "0 of 0 entries of nowhere, 0 B."
    Path("file").write_text("")
    assert call("cache", "list", "--cache", "file").code == 0
