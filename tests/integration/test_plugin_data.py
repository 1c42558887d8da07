"""The plugin on photographs that are not as they should be, run as a user runs it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from kvbench.data import validate
from kvbench.features import extract
from tests.support import ROOT
from tests.support.photos import draw, draw_folder
from tests.support.project import said

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def project(pytester: pytest.Pytester, small_checkpoint: Path) -> pytest.Pytester:
    """A project with photographs of ten classes: one file cannot be read, one lies in both splits."""
    shutil.copytree(ROOT / "benchmarks", pytester.path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    photographs = draw_folder(pytester.path / "photographs", tuple(f"c{i}" for i in range(10)), each=2)
    (photographs / "train" / "c3" / "1.png").write_bytes(b"hello")
    draw(photographs / "val" / "c4" / "1.png", (1, 2, 3))
    shutil.copy(photographs / "val" / "c4" / "1.png", photographs / "train" / "c5" / "1.png")
    pytester.makeini(
        "[pytest]\nkvbench_workload = folder\nkvbench_root = photographs\nkvbench_seeds = 2\n"
        f"kvbench_checkpoint = {small_checkpoint}\n"
    )
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_inprocess("benchmarks", "-p", "no:cacheprovider", "-k", "[Model1]", *arguments)


def test_an_unreadable_image_stops_the_session_with_a_sentence_that_names_the_way_out(project: pytest.Pytester) -> None:
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["*Cannot read the image *train/c3/1.png: it is none of JPEG, PNG*--kvbench-unreadable skip.*"]
    )
    assert "Traceback" not in result.stdout.str()
    assert not list((project.path / ".kvbench").glob("*/part-*")), "no bank is there"


def test_skipping_leaves_it_out_and_the_summary_report_save_and_reference_say_so(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, "--kvbench-unreadable", "skip", "--kvbench-update-expected")
    recorded = json.loads((project.path / "expected" / "folder" / "provenance.json").read_text())
    assert recorded["train_count"] == 19
    assert "1 of 20 train images are left out" in recorded["notes"]
    assert "--kvbench-unreadable skip" in recorded["command"]

    def refuse(*_: object) -> None:
        raise AssertionError("was done once already")

    monkeypatch.setattr(validate, "in_batches", refuse)
    monkeypatch.setattr(extract, "passing", refuse)
    with (project.path / "tox.ini").open("a") as ini:
        ini.write("\nkvbench_unreadable = skip\n")
    result = run(project, "--benchmark-json=run.json")
    assert result.parseoutcomes()["passed"] == 1
    notes = (
        "1 of 20 train images are left out, since they cannot be read; ",
        "; 1 of 20 val images are train images, too, byte for byte: val/c4/1.png is train/c5/1.png.",
    )
    assert re.search("DATA: " + "The teacher resnet18 is right on .*".join(map(re.escape, notes)), said(result))
    report = " ".join((project.path / ".kvbench" / "report-folder.md").read_text().split())
    assert "- train count: 19" in report
    assert f"- notes: {notes[0]}" in report
    assert notes[1] in report
    (benchmark,) = json.loads((project.path / "run.json").read_text())["benchmarks"]
    saved = benchmark["extra_info"]["kvbench"]["notes"]
    assert saved.startswith(notes[0])
    assert saved.endswith(notes[1])
    (listed,) = (project.path / ".kvbench").glob("folder-train-*.unreadable.txt")
    assert listed.read_text() == "train/c3/1.png: it is none of JPEG, PNG, GIF, WEBP, TIFF, BMP, PPM\n"


def test_another_way_with_unreadable_images_is_unknown(project: pytest.Pytester) -> None:
    result = run(project, "--kvbench-unreadable", "mend")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Unknown way with unreadable images 'mend'. Valid: stop, skip."])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--kvbench-taps", "layer4.0,layer4.1.relu"], "Tap 'layer4.1.relu' runs 2 times in a forward pass"),
        (["--kvbench-taps", "layer4.1,layer4.0"], "give layer4.0,layer4.1."),
        (["--kvbench-taps", "layer4.1@BHWC"], "The axes of the tap 'layer4.1@BHWC' do not fit its output"),
    ],
)
def test_a_tap_that_cannot_be_used_ends_the_session_once_before_the_pass(
    options: list[str], sentence: str, project: pytest.Pytester
) -> None:
    (project.path / "photographs" / "train" / "c3" / "1.png").unlink()
    result = project.runpytest_inprocess("benchmarks", "-p", "no:cacheprovider", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stdout.str().count(sentence) == 1
    assert "Traceback" not in result.stdout.str()
    assert not [*project.path.glob(".kvbench/*/part-*")]
