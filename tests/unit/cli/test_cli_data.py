"""The commands that read photographs, on some that are not as they should be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kvbench.core.recipe import TeacherRecipe
from kvbench.workloads import WORKLOADS
from tests.support import tiny_resnet
from tests.support.commands import Call
from tests.support.photos import draw, draw_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten classes of four images a split: one file cannot be read, one lies in both splits."""
    recipe = TeacherRecipe(epochs=1, batch_size=16)
    row = replace(WORKLOADS["folder"], arch=tiny_resnet.NAME, size=32, teacher_recipe=recipe)
    monkeypatch.setitem(WORKLOADS, "folder", row)
    root = draw_folder(tmp_path / "photographs", tuple(f"c{i}" for i in range(10)), each=4)
    (root / "train" / "c3" / "1.png").write_bytes(b"hello")
    draw(root / "train" / "c5" / "2.png", (1, 2, 3))
    shutil.copy(root / "train" / "c5" / "2.png", root / "val" / "c5" / "3.png")
    return root


def test_extract_says_what_it_leaves_out_and_what_is_in_both_splits(
    call: Call, photographs: Path, small_checkpoint: Path
) -> None:
    arguments = ("extract", "--workload", "folder", "--root", photographs, "--checkpoint", small_checkpoint)
    told = call(*arguments)
    assert told.code == 2
    assert told.err.startswith(f"Error: Cannot read the image {photographs}/train/c3/1.png: it is none of JPEG, PNG")
    told = call(*arguments, "--unreadable", "skip")
    assert told.code == 0, told.err
    assert "train: 39 images" in told.out
    assert "val: 40 images" in told.out
    assert "1 of 40 train images are left out, since they cannot be read: train/c3/1.png." in told.err
    assert "Warning: 1 of 40 val images are train images, too, byte for byte: val/c5/3.png is train/c5/2" in told.err
    assert call(*arguments, "--kvbench-unreadable", "skip") == told


def test_a_teacher_is_trained_on_what_can_be_read(call: Call, photographs: Path) -> None:
    arguments = ("teacher", "train", "--workload", "folder", "--root", photographs, "--device", "cpu")
    told = call(*arguments)
    assert told.code == 2
    assert told.err.startswith(f"Error: Cannot read the image {photographs}/train/c3/1.png")
    told = call(*arguments, "--unreadable", "skip")
    assert told.code == 0, told.err
    assert "1 of 40 train images are left out" in told.err
    facts = json.loads(Path("teachers/folder.json").read_text())
    assert facts["data"]["count"] == 39
    assert facts["command"].endswith("--unreadable skip")


@pytest.mark.parametrize("command", [("extract",), ("teacher", "train")])
def test_another_way_with_unreadable_images_is_unknown(command: tuple[str, ...], call: Call, photographs: Path) -> None:
    told = call(*command, "--workload", "folder", "--root", photographs, "--unreadable", "mend")
    assert told.code == 2
    assert told.err == "Error: Unknown way with unreadable images 'mend'. Valid: stop, skip.\n"
    assert list(Path().iterdir()) == []


def test_quiet_shows_warnings_alone_and_verbose_all(call: Call, photographs: Path, small_checkpoint: Path) -> None:
    (photographs / "train" / "stray.png").write_bytes(b"")
    arguments = ("extract", "--workload", "folder", "--root", photographs, "--checkpoint", small_checkpoint)
    skip = ("--unreadable", "skip", "--device", "cpu")
    quiet, loud = call("-q", *arguments, *skip), call("-v", *arguments, *skip)
    assert quiet.code == loud.code == 0
    assert "Warning: 1 of 40 train images are left out" in quiet.err
    assert all(line.startswith("Warning: ") for line in quiet.err.splitlines())
    assert {*quiet.err.splitlines()} <= {*loud.err.splitlines()}
