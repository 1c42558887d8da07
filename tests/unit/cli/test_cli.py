"""The commands, as a user types them: what they print, what they leave, and what they say when something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kvbench.core.recipe import TeacherRecipe
from kvbench.features import extract
from kvbench.features.store import Store
from kvbench.workloads import WORKLOADS
from tests.support import ROOT, tiny_resnet
from tests.support.commands import Call
from tests.support.references import edit
from tests.support.small import SMALL

STUDENTS = """
Model1 |  last tap   |   513,000 |   513,000 | 1,024,000
Model2 | last 2 taps | 1,026,000 | 1,026,000 | 2,048,000
Model3 | last 3 taps | 2,260,664 | 2,260,664 | 4,513,792
Model4 | last 3 taps | 2,260,664 | 1,867,448 | 4,513,792
Model5 | last 3 taps | 2,260,664 | 2,260,664 | 4,513,792
Model6 | last 3 taps | 2,260,664 | 1,867,448 | 4,513,792
Model7 | last 3 taps | 2,481,640 | 2,481,640 | 4,956,160
"""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a workload that takes a moment."""
    recipe = TeacherRecipe(epochs=1, count=32, batch_size=16)
    row = replace(SMALL, name="tiny", size=32, train_count=40, val_count=20, teacher_recipe=recipe)
    monkeypatch.setitem(WORKLOADS, "tiny", replace(row, arch=tiny_resnet.NAME, taps=("layer4",)))
    monkeypatch.setitem(WORKLOADS, "small", replace(row, name="small", arch=tiny_resnet.NAME, taps=SMALL.taps))
    return "tiny"


# Help and reports


def test_references_are_judged_again_from_the_command_line(call: Call, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(ROOT / "expected" / "imagenet", tmp_path / name)
    before = (tmp_path / "one" / "verdicts.csv").read_bytes()
    edit(tmp_path / "one" / "verdicts.csv", "Model1-area,holds", "Model1-area,fails")
    told = call("expected", "rejudge", "--folder", tmp_path)
    assert told.code == 0
    assert "simple-converges-faster (StepLR), Model1-area: fails -> holds" in told.out
    assert told.out.count("Verdicts written to") == 2
    assert (tmp_path / "one" / "verdicts.csv").read_bytes() == before
    assert call("expected", "rejudge", "two", "--folder", tmp_path).out.count("Verdicts written to") == 1
    told = call("expected", "rejudge", "--folder", tmp_path / "one")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "There is no reference in" in told.err
    told = call("expected", "rejudge", "three", "--folder", tmp_path)
    assert (told.code, "nothing to judge again" in told.err) == (2, True)


def test_the_reference_of_imagenet_shows_the_sources_numbers(call: Call) -> None:
    told = call("report", "--expected", "imagenet", "--folder", ROOT / "expected")
    assert told.code == 0
    cells = re.findall(r"\b\d\.\d{3}\b", told.out)
    assert len(cells) >= 140
    assert "lr_Model7" in told.out.replace("\\", "")


def test_a_finding_on_one_seed_says_that_nothing_was_tested(call: Call) -> None:
    told = call("report", "--expected", "imagenet", "--folder", ROOT / "expected", "--finding", "gelu-beats-relu")
    assert told.code == 0
    assert told.out.startswith("gelu-beats-relu (StepLR): holds by sign (one seed, no test): 4 of 4 clauses hold\n")
    assert "p = " not in told.out


@pytest.mark.parametrize("arguments", [[], ["a.json", "--expected", "imagenet"]])
def test_a_report_needs_a_file_or_a_workload(arguments: list[str], call: Call) -> None:
    told = call("report", *arguments)
    assert told.code == 2
    assert told.err.startswith("Error: Name either a saved benchmark")


# Students


def test_students_prints_the_designs_numbers(call: Call) -> None:
    told = call("students")
    assert told.code == 0
    _head, _line, *rows = [[cell.strip() for cell in row.strip("|\n").split("|")] for row in told.out.splitlines()]
    expected = [[cell.strip() for cell in row.split("|")] for row in STUDENTS.strip().splitlines()]
    assert [row[:2] + row[3:] for row in rows] == expected


def test_students_takes_names_widths_and_classes(call: Call) -> None:
    told = call("students", "Model1", "Model2", "--widths", "8, 16", "--classes", "10")
    assert [re.findall(r"[\d,]+(?= )", row)[-3:] for row in told.out.splitlines()[2:]] == [
        ["170", "170", "320"],
        ["260", "260", "480"],
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["Model8"], r"Unknown student 'Model8'\. .*Valid: Model1, .*Model7"),
        (["--widths", "a,b"], r"Cannot read the widths 'a,b'"),
        (["--widths", "512,0"], r"Cannot read the widths '512,0'"),
        (["Model3", "--widths", "512"], r"Model3 reads the taps -3, -2, -1, there are 1"),
        (["Model7", "--classes", "0"], r"classes"),
    ],
)
def test_students_that_make_no_sense_are_told(arguments: list[str], sentence: str, call: Call) -> None:
    told = call("students", *arguments)
    assert told.code == 2
    assert re.search(sentence, told.err)
    assert told.out == ""


# Banks


def test_extract_makes_two_banks_and_a_second_call_reuses_them(
    call: Call, tiny: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["extract", "--workload", "small", "--checkpoint", small_checkpoint, "--device", "cpu"]
    first = call(*arguments, "--cache", tmp_path / "banks")
    assert first.code == 0, first.err
    assert "train: 40 images, taps 8 16 16 wide, 10 classes" in first.out
    assert "val: 20 images, taps 8 16 16 wide, 10 classes" in first.out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "banks").glob("*/part-*")}
    assert sorted(path.parent.name.rpartition("-")[0] for path in written) == ["small-train", "small-val"]

    def refuse(*_: object) -> None:
        raise AssertionError("a cached bank needs no teacher pass")

    checksum = Store._checksum
    monkeypatch.setattr(extract, "passing", refuse)
    second = call(*arguments, "--kvbench-cache", tmp_path / "banks")
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in written} == written
    read: list[int] = []

    def counted(store: Store, part: int) -> tuple[str, str]:
        read.append(part)
        return checksum(store, part)

    monkeypatch.setattr(Store, "_checksum", counted)
    assert call(*arguments, "--cache", tmp_path / "banks", "--verify") == first
    assert len(read) == 2


def test_extract_in_bfloat16_makes_banks_half_as_large(
    call: Call, tiny: str, small_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["extract", "--workload", "small", "--checkpoint", small_checkpoint, "--device", "cpu"]
    sizes = []
    for precision in ("float32", "bfloat16"):
        told = call(*arguments, "--cache", tmp_path / precision, "--kvbench-precision", precision)
        assert told.code == 0, told.err
        parts = [load_file(path) for path in (tmp_path / precision).glob("*/*.safetensors")]
        sizes.append(sum(column.nbytes for part in parts for column in part.values()))
    assert sizes[0] - sizes[1] == 2 * (40 + 20) * (sum(tiny_resnet.WIDTHS) + 10), "two bytes a number"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workload", "fractal"], r"Unknown workload 'fractal'\. Did you mean fractals\? Valid: fractals, "),
        (["--workload", "small", "--device", "gpu"], r"Unknown device 'gpu'\. .*auto, cpu, cuda, mps, xpu"),
        (["--workload", "small", "--precision", "half"], r"Unknown precision 'half'\. .*float32, bfloat16"),
        (["--workload", "small", "--pooling", "max"], r"Unknown pooling 'max'\. .*global, pyramid"),
        (["--workload", "small", "--taps", "layer3.1,layer4.2"], r"No tap 'layer4\.2': .*layer4\.1"),
        (["--workload", "small", "--teacher", "resnet34", "--taps", "layer3,layer4"], r"does not fit resnet34"),
        (["--workload", "small", "--checkpoint", "gone.pt"], r"No checkpoint file gone\.pt"),
        (["--workload", "folder"], r"--kvbench-root DIR"),
        (["--workload", "folder", "--root", "gone"], r"No folder gone"),
        (["--workload", "folder", "--root", "."], r"No folder train: expected \. to hold train/ and val/"),
    ],
)
def test_bad_input_is_one_sentence_with_code_2_and_nothing_is_written(
    arguments: list[str], sentence: str, call: Call, tiny: str, small_checkpoint: Path
) -> None:
    if "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", str(small_checkpoint)]
    told = call("extract", *arguments)
    assert told.code == 2
    assert re.match(rf"Error: .*{sentence}", told.err)
    assert "Traceback" not in told.err
    assert told.out == ""
    assert list(Path().iterdir()) == []


# Teachers


def test_taps_lists_what_can_be_tapped_and_marks_the_default(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    told = call("taps", "swin_t")
    assert told.code == 0, told.err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.out.splitlines() if "|" in line]
    assert [row[0] for row in rows if row[3] == "default"] == ["features.3", "features.5", "features.7"]
    assert ["features.6", "(7, 7, 768)", "768", ""] in rows
    assert not any(row[0].count(".") > 1 for row in rows)
    assert told.out.endswith("more lie deeper: --depth 3.\n")
    deeper = call("taps", "swin_t", "--depth", 9, "--size", 64).out
    assert "| features.7.1.mlp.0 " in deeper
    assert re.search(r"features\.6 .*\(2, 2, 768\)", deeper)
    assert "deeper" not in deeper


def test_taps_of_a_function_of_ones_own(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("networks_of_mine.py").write_text(
        "from torch.nn import *\ndef net(classes): return Sequential(Conv2d(3, 4, 3))\n"
    )
    told = call("taps", "networks_of_mine:net", "--size", 8)
    assert told.code == 0, told.err
    assert re.search(r"\| 0 +\| \(4, 6, 6\) +\| +4 \|", told.out)
    assert "No three stages can be told: name taps with --kvbench-taps." in told.out


def test_taps_of_an_unknown_teacher_name_the_nearest(call: Call) -> None:
    told = call("taps", "swin_x")
    assert told.code == 2
    assert told.err.startswith("Error: Unknown torchvision model 'swin_x'. Did you mean swin_")


def test_teacher_train_writes_weights_and_their_record_that_extract_can_use(call: Call, tiny: str) -> None:
    told = call("teacher", "train", "--workload", tiny, "--set", "epochs=2", "--seed", 3, "--device", "cpu")
    assert told.code == 0, told.err
    assert told.out.startswith("teachers/tiny.safetensors: accuracy ")
    assert sorted(path.name for path in Path("teachers").iterdir()) == ["tiny.json", "tiny.safetensors"]
    facts = json.loads(Path("teachers/tiny.json").read_text())
    assert facts["command"] == "kvbench teacher train --workload tiny --seed 3 --set epochs=2"
    assert (facts["images_seen"], facts["seed"], facts["val_count"]) == (64, 3, 20)
    told = call("extract", "--workload", tiny, "--checkpoint", "teachers/tiny.safetensors", "--device", "cpu")
    assert told.code == 0, told.err
    assert "val: 20 images, taps 16 wide, 10 classes" in told.out
    assert f"teacher's accuracy {facts['val_accuracy']:.1%}" in told.out.splitlines()[1]


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["-v"], True), (["-q"], False), (["--quiet"], False)])
def test_a_command_logs_on_standard_error_unless_it_is_quiet(
    flags: list[str], shown: bool, call: Call, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    told = call(*flags, "teacher", "train", "--workload", tiny, "--device", "cpu")
    assert told.code == 0, told.err
    assert ("step 2 of 2, loss" in told.err) == shown
    assert "step" not in told.out
    assert "\x1b" not in told.out + told.err


def test_teacher_train_takes_architecture_size_batch_and_learning_rate(call: Call, tiny: str) -> None:
    choices = ["--set", "size=48 batch_size=1000", "--set", "lr=0.01"]
    arguments = ["--arch", "squeezenet1_1", *choices, "--out", "a.safetensors"]
    told = call("teacher", "train", "--workload", tiny, "--device", "cpu", *arguments)
    assert told.code == 0, told.err
    facts = json.loads(Path("a.json").read_text())
    assert facts["command"].endswith("--arch squeezenet1_1 --set size=48 --set batch_size=1000 --set lr=0.01")
    assert (facts["arch"], facts["recipe"]["batch_size"], facts["recipe"]["lr"]) == ("squeezenet1_1", 32, 0.01)
    assert facts["data"]["size"] == 48
    told = call(
        *("extract", "--workload", tiny, "--device", "cpu", "--checkpoint", "a.safetensors", "--set", "size=48"),
        *("--teacher", "squeezenet1_1", "--taps", "features.10,features.12"),
    )
    assert told.code == 0, told.err
    assert "taps 384 512 wide" in told.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workload", "fractal"], r"Unknown workload 'fractal'"),
        (["--workload", "tiny", "--device", "gpu"], r"Unknown device 'gpu'"),
        (["--workload", "tiny", "--out", "weights.pt"], r"name a file that ends in \.safetensors"),
        (["--workload", "tiny-imagenet"], r"--kvbench-root DIR"),
        (["--workload", "tiny", "--set", "epochs=0"], r"epochs 0; valid is a whole number from 1"),
        (["--workload", "tiny", "--seed", str(2**70)], r"seed"),
        (["--workload", "tiny", "--arch", "VGG16"], r"Did you mean vgg16"),
    ],
)
def test_a_teacher_that_cannot_be_trained_is_told(arguments: list[str], sentence: str, call: Call, tiny: str) -> None:
    told = call("teacher", "train", *arguments)
    assert told.code == 2
    assert re.search(sentence, told.err)
    assert "Traceback" not in told.err
    assert list(Path().iterdir()) == []


def test_an_unknown_finding_names_the_valid_ones(call: Call) -> None:
    told = call("report", "--expected", "imagenet", "--folder", ROOT / "expected", "--finding", "gelu-beats-rleu")
    assert told.code == 2
    assert "Did you mean gelu-beats-relu" in told.err
    assert "simple-is-best" in told.err
    assert told.out == ""
