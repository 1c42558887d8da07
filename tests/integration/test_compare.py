"""Two sessions that differ by one injected fault, and two that do not; references at revisions of git."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kvbench.core.run import Run
from kvbench.mutation.faults import FAULTS, Fault
from kvbench.mutation.faults.fault import after_init
from tests.support import EXPECTED
from tests.support.commands import Call
from tests.support.sessions import TinyProject
from tests.support.tiny import register


def slow_model3(run: Run) -> None:
    """Train one student at a tenth of its learning rate."""
    if run.configuration.student.name == "Model3":
        for group in run.optimizer.param_groups:
            group["lr"] /= 10


FAULT = Fault("slow-model3", "Model3 learns at a tenth of its rate", after_init(slow_model3))


def session(project: TinyProject, name: str, fault: Fault | None = None, *arguments: str) -> int:
    """Run the whole suite, with a fault or without, and save it; its exit status."""
    with fault.inject() if fault else nullcontext():
        return project.run(project.plain, f"--benchmark-save={name}", *arguments)[0]


@pytest.fixture
def compare(project: TinyProject, call: Call, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compare two sides in the project's folder: exit status and content."""
    register(monkeypatch)
    monkeypatch.chdir(project.path)

    def compare(*arguments: str) -> tuple[int, dict[str, Any]]:
        told = call("compare", *arguments, "--format", "json")
        assert told.code in {0, 1, 3}, told.err
        return told.code, json.loads(told.out)

    return compare


def moved(content: dict[str, Any], way: str) -> set[tuple[str, str]]:
    return {(row["configuration"], row["number"]) for row in content["numbers"] if row["way"] == way}


def test_one_injected_fault_is_named_and_two_clean_sessions_are_the_same(project: TinyProject, compare: Any) -> None:
    assert [session(project, "clean"), session(project, "again"), session(project, "faulty", FAULT)] == [0, 0, 1]
    code, content = compare("clean", "again")
    assert (code, content["outcome"]) == (0, "the same")
    assert len(content["numbers"]) == 14 * 5
    assert content["clauses_compared"] > 70
    for baseline in ("tiny", "clean"):  # the reference, and a saved run
        code, content = compare(baseline, "faulty")
        assert code == 1
        worse = moved(content, "worse")
        assert {name for name, _ in worse} == {"Model3", "lr_Model3"}
        assert ("Model3", "train_loss, last epoch") in worse
        assert {name for name, _ in moved(content, "the same")} >= {"Model1", "lr_Model7"}
        assert any("faulty: it failed" in note for note in content["notes"])
    code, content = compare("faulty", "clean", "--allow-failed")
    assert moved(content, "better") >= worse


def test_a_fault_is_seen_in_seeds_that_no_reference_knows(project: TinyProject, compare: Any) -> None:
    shutil.rmtree(project.path / "expected")
    for name, fault in (("clean", None), ("faulty", FAULTS["lr-x0.5"])):
        session(project, name, fault, "--kvbench-seeds", "100:108")
    code, content = compare("clean", "faulty", "--allow-failed")
    assert code == 1
    assert len({configuration for configuration, _ in moved(content, "worse")}) == 14, "all learn at half their rate"
    assert all(row["by_seed"] for row in content["numbers"])


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false",
         *arguments],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a reference that changed after v1.0, and was moved away after v2.0."""
    folder = tmp_path / "repository"
    shutil.copytree(EXPECTED / "tiny-imagenet", folder / "expected" / "tiny-imagenet")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "v1.0")
    path = folder / "expected" / "tiny-imagenet" / "histories.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for cells in lines[1:]:
        if cells[0] == "Model3":
            cells[3] = f"{float(cells[3]) * 1.5:.6g}"
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    git(folder, "commit", "-qam", "two")
    git(folder, "tag", "v2.0")
    return folder


@pytest.mark.parametrize("named", ["tiny-imagenet@v1.0", "expected/tiny-imagenet@v1.0", "tiny-imagenet@HEAD@{1}"])
def test_a_reference_at_a_revision_is_read_without_a_checkout(
    named: str, repository: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook may have it
    told = call("compare", named, "tiny-imagenet", "--format", "json")
    assert told.code == 1, told.err
    content = json.loads(told.out)
    assert {name for name, _ in moved(content, "worse")} == {"Model3"}
    shutil.move(repository / "expected", repository / "elsewhere")
    told = call("compare", named, "elsewhere/tiny-imagenet", "--format", "json")
    assert json.loads(told.out)["numbers"] == content["numbers"]
    told = call("compare", named, "expected/tiny-imagenet@v1.0")
    assert told.code == 0, told.err + told.out


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("expected/tiny-imagenet@v9", r"There is no revision v9 in the git repository of "),
        ("expected/tiny-imagenet@--output=x", r"'--output=x' is no revision of git"),
        ("expected/tiny-imagenet@v1.0:x", r"is no revision of git"),
        ("expected/other@v1.0", r"There is no reference in expected/other at the revision v1\.0"),
        ("/nowhere/tiny@v1.0", r"is in no git repository"),
    ],
)
def test_what_git_does_not_have_is_a_sentence(
    named: str, sentence: str, repository: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("GIT_DIR", raising=False)
    told = call("compare", named, "tiny-imagenet")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert re.search(sentence, told.err), told.err
    assert sorted(path.name for path in repository.iterdir()) == [".git", "expected"]


def test_without_git_a_revision_is_a_sentence(repository: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", "/nowhere")
    told = call("compare", "tiny-imagenet@v1.0", "tiny-imagenet")
    assert (told.code, told.err) == (2, "Error: Reading a revision needs git, which is not installed.\n")


def test_a_damaged_reference_of_a_revision_is_named_by_it(
    repository: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "expected" / "tiny-imagenet" / "histories.csv").write_text("a,b\n1,2\n")
    git(repository, "commit", "-qam", "three")
    git(repository, "tag", "v3.0")
    git(repository, "checkout", "-q", "v2.0")
    told = call("compare", "expected/tiny-imagenet@v3.0", "tiny-imagenet")
    assert told.code == 2
    assert "expected/tiny-imagenet@v3.0/histories.csv" in told.err
