"""What ``kvbench init`` writes, and what it does not overwrite."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.commands import Call

CONFTEST, SUITE = Path("benchmarks/conftest.py"), Path("benchmarks/test_ablation.py")


def test_an_empty_folder_gets_a_study(call: Call) -> None:
    told = call("init", "--study", "flowers")
    assert told.code == 0, told.err
    assert told.out.splitlines() == [
        f"Written: {CONFTEST}",
        f"Written: {SUITE}",
        "Next, record the students' curves as the reference, then compare with it:",
        "  pytest benchmarks/ --kvbench-seeds 8 --kvbench-update-expected",
        "  pytest benchmarks/",
    ]
    study = runpy.run_path(str(CONFTEST))["pytest_kvbench_studies"]()
    assert (study.name, len(study.students), len(study.findings), study.references) == ("flowers", 3, 1, "flowers")
    assert call("init", "--help").out.count("my-study") == 1, "the template's own name is the default"


def test_another_folder_is_made(call: Call) -> None:
    told = call("init", "new folder/deep")
    assert (Path("new folder/deep") / CONFTEST).is_file()
    assert "  cd 'new folder/deep'\n  pytest" in told.out


def test_the_suite_is_the_repositorys(call: Call) -> None:
    call("init")
    assert SUITE.read_text() == (ROOT / SUITE).read_text()


@pytest.mark.parametrize("there", [CONFTEST, SUITE])
def test_nothing_is_overwritten(there: Path, call: Call) -> None:
    there.parent.mkdir()
    there.write_text("mine")
    told = call("init")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"Error: {there} is there already, and nothing is overwritten: choose another folder")
    assert [path.read_text() for path in there.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("kv-memory", "Error: The study kv-memory is there already: give yours another name with --study."),
        ("a/b", "Error: The name of a study is 'a/b'; valid is a name that can be a folder's"),
        ("", "Error: The name of a study is ''"),
    ],
)
def test_a_name_that_makes_no_study_is_told(name: str, sentence: str, call: Call) -> None:
    told = call("init", "--study", name)
    assert (told.code, told.err.startswith(sentence)) == (2, True), told.err
    assert not Path("benchmarks").exists()


def test_a_folder_that_cannot_be_written_to_is_told(call: Call) -> None:
    Path("file").write_text("")
    Path("link").mkdir()
    Path("link/benchmarks").symlink_to("nowhere")
    for folder, why in (("file", "Not a directory"), ("link", "File exists")):
        told = call("init", folder)
        assert (told.code, told.err) == (2, f"Error: Cannot write to the folder {folder}/benchmarks: {why}.\n")
