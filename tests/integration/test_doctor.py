"""``kvbench doctor``: what it says is what a run then does, and nothing that is damaged stops it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from kvbench.core.run import Run
from kvbench.harness.cache import look
from tests.support import tiny
from tests.support.commands import Call
from tests.support.sessions import TinyProject, suite_of


@pytest.fixture
def doctor(call: Call, project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the doctor says in a project with references and a whole bank; its exit status is 0 whatever it finds."""
    monkeypatch.chdir(project.path)
    tiny.register(monkeypatch)
    Path("drawn.json").write_text(json.dumps(asdict(project.plain)))  # which the project's conftest.py reads

    def doctor(*arguments: str) -> str:
        told = call("doctor", *arguments)
        assert told.code == 0, told.err
        assert "Traceback" not in told.err
        return told.out

    return doctor


def line(told: str, topic: str) -> str:
    return "\n".join(re.findall(rf"^[! ] {topic} .*$", told, flags=re.MULTILINE))


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_doctor_says_what_is_there_and_changes_nothing(doctor: Callable[..., str]) -> None:
    before = contents()
    told = doctor()
    assert contents() == before
    assert re.search(r"kvbench +\d+\.\d+\S* in /", told)
    assert "torch 2." in line(told, "packages")
    assert "options of its ini file: workload tiny" in line(told, "project")
    assert "kv-memory on tiny: 14 configurations, 8 findings" in line(told, "study")
    assert re.search(r"expected/tiny: 14 configurations, 6 seeds, of \d{4}-", line(told, "reference"))
    assert re.search(r"train: whole, 128 images, .*val: whole, 64 images", line(told, "banks"), re.DOTALL)
    assert "bank: 2, " in line(told, "cache")
    assert "none: no run was interrupted" in line(told, "checkpoints")
    assert told.rstrip().endswith("nothing that stands in the way.")


def test_what_the_doctor_says_would_be_reused_is_reused(
    doctor: Callable[..., str], project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trained = Run.chunks, []

    def chunks(run: Run) -> Iterator[None]:
        trained.append(run)
        if len(trained) > 7:
            raise KeyboardInterrupt
        yield from plain(run)

    two = suite_of(["Model1", "Model2"], [])
    project.run(two, disturb=lambda patch: patch.setattr(Run, "chunks", chunks))
    (entry,) = look(Path(".kvbench")).select(kinds=["checkpoint"])
    assert len(entry.files) == 4
    assert f"a run here goes on with 2 trainings, in .kvbench/{entry.name}" in line(doctor(), "checkpoints")
    assert "none for a run here" in line(doctor("--seeds", "3"), "checkpoints")
    code, _ = project.run(two)
    assert code == 0
    assert "REUSED: Model1 (finished); Model2 " in project.stdout
    assert "none: no run was interrupted" in line(doctor(), "checkpoints")


def damage_part(path: Path) -> None:
    part = next(path.glob(".kvbench/tiny-train-*/part-00000.safetensors"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a conftest.py that fails": (
        lambda path: (path / "conftest.py").write_text("import nowhere\n"),
        "project",
        "cannot be asked for, as pytest fails here: .*No module named 'nowhere'",
    ),
    "a study that fails": (
        lambda path: (path / "conftest.py").write_text("def pytest_kvbench_studies():\n    return 1 / 0\n"),
        "project",
        "pytest_kvbench_studies fails: ZeroDivisionError",
    ),
    "a reference that is no table": (
        lambda path: (path / "expected" / "tiny" / "histories.csv").write_bytes(b"\xff\x00"),
        "reference",
        "histories.csv can't be read as text",
    ),
    "no reference": (
        lambda path: (path / "expected" / "tiny" / "histories.csv").unlink(),
        "reference",
        r"there is none in .*to record it: pytest benchmarks/ .*--kvbench-seeds 8 --kvbench-update-expected",
    ),
    "a flipped bit in a bank": (damage_part, "banks", r"train: part 0 \(it does not have its checksum\) of .* damaged"),
    "an option that there is not": (
        lambda path: (path / "tox.ini").write_text("[pytest]\nkvbench_workload = tiny\nkvbench_pooling = circles\n"),
        "project",
        "Unknown pooling 'circles'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_a_finding(doctor: Callable[..., str], project: TinyProject, name: str) -> None:
    damage, topic, sentence = DAMAGE[name]
    damage(project.path)
    told = doctor()
    assert re.search(rf"^! {topic} .*{sentence}", told, flags=re.MULTILINE), told
    assert re.search(r"\d findings? marked !\.$", told.rstrip())


def test_the_doctor_needs_no_project(call: Call) -> None:
    told = call("doctor", "--workload", "imagenet", "--cache", "elsewhere")
    assert told.code == 0
    assert "nothing is kept in elsewhere" in line(told.out, "cache")
    assert "there is no folder benchmarks/ here" in line(told.out, "project")
    assert "! banks" in told.out or "! teacher" in told.out or "downloads its weights" in told.out
    assert not Path("elsewhere").exists()
