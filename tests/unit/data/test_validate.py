"""Looking through files before they are used: what is left out and told, and what is remembered."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kvbench.data import loader, validate
from kvbench.data.fractals import FractalImages
from kvbench.data.layouts import image_folder
from kvbench.data.photos import PhotoImages
from kvbench.data.validate import in_both, readable
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from kvbench.workloads import WORKLOADS
from tests.support.logs import logged
from tests.support.photos import draw, draw_folder, draw_tiny_imagenet

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process, which is quicker for a few; a test may ask for others by their number."""
    monkeypatch.setattr(loader, "processors", lambda: getattr(request, "param", 0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six training images, of which the second cat and the last dog cannot be read."""
    folder = draw_folder(tmp_path / "data")
    (folder / "train" / "cat" / "1.png").write_bytes(b"hello")
    (folder / "train" / "dog" / "2.png").unlink()
    (folder / "train" / "dog" / "2.png").symlink_to("gone.png")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(root: Path, split: str = "train") -> PhotoImages:
    return PhotoImages(*image_folder(root, split), 8, root)


def left(root: Path, cache: Path, said: list[str] | None = None) -> list[str]:
    """The names of the training images that can be used."""
    with logged() as messages:
        images, _ = readable(opened(root), "train", cache, "mine")
    if said is not None:
        said += messages
    assert isinstance(images, PhotoImages)
    return [images.name(i).removeprefix("train/") for i in range(len(images))]


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file was decoded again")

    monkeypatch.setattr(validate, "in_batches", refuse)


@pytest.mark.parametrize("readers", [0, 2], indirect=True)
def test_unreadable_files_are_left_out_told_and_listed(root: Path, cache: Path) -> None:
    reports: list[Progress] = []
    with logged() as messages:
        images, note = readable(opened(root), "train", cache, "mine", reports.append)
    assert isinstance(images, PhotoImages)
    assert [images.name(i) for i in range(len(images))] == [
        "train/cat/0.png", "train/cat/2.png", "train/dog/0.png", "train/dog/1.png"
    ]  # fmt: skip
    assert images.__getitems__([0, 1, 2, 3])[1].tolist() == [0, 0, 1, 1]
    assert images.fingerprint["count"] == 4
    assert note == "2 of 6 train images are left out, since they cannot be read"
    (listed,) = cache.glob("mine-train-*.unreadable.txt")
    assert messages == [f"{note}: train/cat/1.png, train/dog/2.png. All, with reasons: {listed}"]
    assert listed.read_text().splitlines() == [
        "train/cat/1.png: it is none of JPEG, PNG, GIF, WEBP, TIFF, BMP, PPM",
        "train/dog/2.png: it is a symbolic link to a file that is not there",
    ]
    assert reports == [("mine-train: looking for unreadable files", 6, 6, "file")]


def test_sound_files_are_left_as_they_are(tmp_path: Path, cache: Path) -> None:
    images = opened(draw_folder(tmp_path))
    with logged() as messages:
        assert readable(images, "train", cache, "mine") == (images, "")
    assert messages == []
    assert list(cache.glob("*.txt")) == []


def test_a_second_look_decodes_nothing_and_says_the_same(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[str] = []
    names = left(root, cache, first)
    forbid_decoding(monkeypatch)
    again: list[str] = []
    assert left(root, cache, again) == names
    assert again == first


@pytest.mark.parametrize("change", ["mended", "spoilt", "linked file appears", "rights"])
def test_a_change_of_any_file_is_looked_at(change: str, root: Path, cache: Path) -> None:
    before = left(root, cache)
    if change == "mended":
        draw(root / "train" / "cat" / "1.png")
        assert left(root, cache) == sorted([*before, "cat/1.png"])
    elif change == "spoilt":  # with the same size and time
        path = root / "train" / "cat" / "0.png"
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert left(root, cache) == before[1:]
    elif change == "linked file appears":
        draw(root / "train" / "dog" / "gone.png")
        assert left(root, cache) == [*before, "dog/2.png", "dog/gone.png"]
    else:
        (root / "train" / "cat" / "0.png").chmod(0o600)
        assert left(root, cache) == before
        assert len(list(cache.glob("*.scan.json"))) == 2


WRONG = [
    "", "[]", "null", "{", "[" * 100_000, '{"key": 1}',
    '{"key": KEY, "found": [[6, "past the end"]]}',
    '{"key": KEY, "found": [[-1, "before the start"]]}',
    '{"key": KEY, "found": [["train/cat/0.png", "a path"]]}',
    '{"key": KEY, "found": [[true, "no number"]]}',
    '{"key": KEY, "found": [[1]]}',
    '{"key": KEY, "found": 3}',
    '{"key": "another", "found": []}',
]  # fmt: skip


@pytest.mark.parametrize("content", WRONG)
def test_a_damaged_or_foreign_memory_is_made_again(content: str, root: Path, cache: Path) -> None:
    names = left(root, cache)
    (kept,) = cache.glob("*.scan.json")
    sound = kept.read_text()
    kept.write_text(content.replace("KEY", json.dumps(json.loads(sound)["key"])))
    assert left(root, cache) == names
    assert kept.read_text() == sound


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that gives an error when it is read")
def test_a_failure_that_may_pass_is_not_remembered(root: Path, cache: Path) -> None:
    (root / "train" / "dog" / "1.png").unlink()
    (root / "train" / "dog" / "1.png").symlink_to("/proc/self/mem")
    assert left(root, cache) == ["cat/0.png", "cat/2.png", "dog/0.png"]
    assert list(cache.glob("*.scan.json")) == []


def test_a_class_of_which_nothing_is_left_is_named(root: Path, cache: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"No image in train can be read of cat\. .*reasons: .*unreadable\.txt"):
        left(root, cache)


def test_a_cache_that_cannot_be_written_is_told_before_the_look(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    forbid_decoding(monkeypatch)
    with pytest.raises(UserError, match="Cannot write to the folder"):
        left(root, cache)


def test_an_annotated_image_that_is_not_there_is_left_out(tmp_path: Path, cache: Path) -> None:
    folder = draw_tiny_imagenet(tmp_path / "data")
    (folder / "val" / "images" / "val_2.JPEG").unlink()
    images, note = readable(WORKLOADS["tiny-imagenet"].images("val", folder, None), "val", cache, "tiny")
    assert len(images) == 2
    assert note == "1 of 3 val images are left out, since they cannot be read"
    assert len(images.fingerprint["listing"]) == 64


def test_images_that_lie_in_no_files_are_left_alone(cache: Path) -> None:
    images = FractalImages("val", 30, classes=10, size=32)
    assert readable(images, "val", cache, "small") == (images, "")
    assert in_both(images, images, cache, "small") == ""
    assert not cache.exists()


# The same image in both splits


def both(root: Path, cache: Path) -> str:
    with logged() as messages:
        note = in_both(opened(root), opened(root, "val"), cache, "mine")
    assert messages == ([note] if note else [])
    return note


def test_images_of_both_splits_are_counted_and_named(tmp_path: Path, cache: Path) -> None:
    root = draw_folder(tmp_path)
    assert both(root, cache) == ""
    shutil.copy(root / "train" / "cat" / "1.png", root / "val" / "dog" / "0.png")
    shutil.copy(root / "train" / "cat" / "1.png", root / "val" / "cat" / "x.png")
    assert both(root, cache) == (
        "2 of 7 val images are train images, too, byte for byte:"
        " val/cat/x.png is train/cat/1.png, val/dog/0.png is train/cat/1.png."
    )


def test_files_that_differ_only_before_their_end_are_different(tmp_path: Path, cache: Path) -> None:
    root = draw_folder(tmp_path)
    for split in ("train", "val"):
        (root / split / "cat" / "long.png").write_bytes(split[:1].encode() + bytes(3 * validate.TAIL))
    assert both(root, cache) == ""


def test_what_was_compared_is_remembered_until_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_folder(tmp_path)
    shutil.copy(root / "train" / "cat" / "1.png", root / "val" / "dog" / "0.png")
    note = both(root, cache)
    with monkeypatch.context() as patch:
        patch.setattr(validate, "_same", lambda *_: pytest.fail("the files were compared again"))
        assert both(root, cache) == note
    draw(root / "val" / "dog" / "0.png", (1, 2, 3))
    assert both(root, cache) == ""


def test_only_so_many_files_are_compared_and_that_is_told(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_folder(tmp_path)
    for split in ("train", "val"):
        (root / split / "cat" / "rare.png").write_bytes(b"two of this size")
        for number in range(2):
            (root / split / "cat" / f"often{number}.png").write_bytes(b"four of this")
    monkeypatch.setattr(validate, "MAX_COMPARED", 2)
    told = both(root, cache)
    assert told.endswith("val/cat/rare.png is train/cat/rare.png. 2 files were compared, not all.")
