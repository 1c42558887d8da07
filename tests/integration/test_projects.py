"""What a project registers in its conftest.py: found by test runs and by commands alike."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from kvbench.cli import main
from kvbench.harness.fixtures import SESSION
from kvbench.harness.options import OPTIONS
from kvbench.harness.projects import experiment, of_this_project
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support import ROOT
from tests.support.commands import Call

CONFTEST = """
from kvbench import Student, Study, linear, WORKLOADS
from dataclasses import replace

WORKLOADS["few"] = replace(WORKLOADS["fractals"], name="few", train_count=64, val_count=32)

def pytest_kvbench_studies():
    students = (Student("linear", lambda widths, classes: linear(widths[0], classes), summary="one layer"),)
    return %s
"""
ONE, TWO = (
    'Study("mine", "Mine", students, workloads={"few": {"lr": 0.01}})',
    '[Study("mine", "Mine", students), Study("other", "Other", students)]',
)


@pytest.fixture(autouse=True)
def _workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbench.workloads.WORKLOADS", WORKLOADS)
    monkeypatch.setitem(WORKLOADS, "few", WORKLOADS["fractals"])  # taken back afterwards, whatever a conftest sets


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(**given: str) -> dict[str, object]:
    return {row.name: row.parse(given.get(row.name, row.default)) for row in OPTIONS}


@pytest.mark.parametrize("place", [".", "benchmarks"])
def test_the_studies_of_a_conftest_are_found(here: Path, place: str) -> None:
    (here / place).mkdir(exist_ok=True)
    (here / place / "conftest.py").write_text(CONFTEST % ONE)
    (study,) = of_this_project()
    assert (study.name, study.students[0].summary) == ("mine", "one layer")
    chosen = experiment(values(), [study])
    assert (chosen.study.name, chosen.name, chosen.recipes[0].lr) == ("mine", "few", 0.01)
    assert chosen.images.train_count == 64


def test_without_a_conftest_there_are_none(here: Path) -> None:
    assert of_this_project() == []
    assert experiment(values(), []).study is STUDY
    assert experiment(values(), []).name == "fractals"


def test_several_are_found_and_one_is_chosen(here: Path) -> None:
    (here / "conftest.py").write_text(CONFTEST % TWO)
    project = of_this_project()
    assert [study.name for study in project] == ["mine", "other"]
    assert experiment(values(study="other"), project).study.name == "other"
    with pytest.raises(UserError, match=r"several studies: choose one with --kvbench-study \(mine, other\)"):
        experiment(values(), project)


def test_a_conftest_that_fails_is_one_sentence(here: Path) -> None:
    (here / "conftest.py").write_text("import nothing_of_this_name")
    with pytest.raises(UserError, match=r"cannot be asked for.*nothing_of_this_name"):
        of_this_project()


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("1 / 0", r"pytest_kvbench_studies fails: ZeroDivisionError: division by zero \(.*conftest.py, line 9\)"),
        ("3", "'int' object is not iterable .* It returns a kvbench.Study, or several in a list."),
    ],
)
def test_a_hook_that_fails_is_one_sentence(here: Path, returned: str, sentence: str) -> None:
    (here / "conftest.py").write_text(CONFTEST % returned)
    with pytest.raises(UserError, match=sentence):
        of_this_project()


def test_a_study_without_findings_passes_and_its_saved_run_is_read_elsewhere(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        from kvbench import Recipe, Student, Study

        def train(configuration, seed, device):
            for epoch in range(configuration.recipe.epochs):
                yield {"train_loss": 1 / (epoch + 1), "val_accuracy": 0.9}

        def pytest_kvbench_studies():
            return Study("mine", "Mine", (Student("small"), Student("large")), (Recipe(epochs=2),), train=train)
        """
    )
    shutil.copy(ROOT / "benchmarks" / "test_ablation.py", pytester.path)
    arguments = ("test_ablation.py", "-p", "no:cacheprovider", "--kvbench-seeds", "2")
    pytester.runpytest_inprocess(*arguments, "--kvbench-update-expected")
    result = pytester.runpytest_inprocess(*arguments, "--benchmark-json=first.json")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=2, skipped=1)
    assert "Could not" not in result.stdout.str() + result.stderr.str()

    (pytester.path / "elsewhere").mkdir()
    (pytester.path / "conftest.py").unlink()
    monkeypatch.chdir(pytester.path / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["kvbench", "report", "../first.json"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert "| small " in told.out
    assert "The study mine is not known here" in told.err


def test_commands_know_the_projects_study(call: Call) -> None:
    Path("conftest.py").write_text(CONFTEST % ONE)
    told = call("students")
    assert told.code == 0, told.err
    assert "one layer" in told.out
    assert "Model1" not in told.out
    assert "Model1" in call("students", "--study", "kv-memory").out
    told = call("students", "--study", "min")
    assert (told.code, "Did you mean mine?" in told.err) == (2, True)


def test_commands_know_the_study_that_init_writes(call: Call) -> None:
    assert call("init").code == 0
    told = call("students")
    assert told.code == 0, told.err
    assert [row.split("|")[1].strip() for row in told.out.splitlines()[2:]] == ["linear", "narrow", "wide"]
    assert "There is no reference for fractals in expected/my-study" in call("report", "--expected", "fractals").err


class Asked:
    """A plugin that keeps the folder of references and that of banks."""

    folders: tuple[Path, Path]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        values = session.config.stash[SESSION]().values
        self.folders = values["expected"], values["cache"]


def test_without_an_ini_file_folders_lie_in_the_current_one(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere, asked = tmp_path_factory.mktemp("cache"), Asked()
    pytester.makepyfile("def test_it(kvbench_finding): pass")
    pytester.runpytest_inprocess("--collect-only", "--kvbench-cache", str(elsewhere), plugins=[asked])
    assert asked.folders == (pytester.path / "expected", elsewhere)
