"""What a session comes to: drawn ones (two hundred in tests/slow), and case by case orders, marks, endings, updates."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvbench.reporting.contents import of_saved
from kvbench.results.saved import Outcome, read
from kvbench.studies.kv_memory import STUDY
from tests.support.sessions import FINDINGS, Drawn, TinyProject, assert_holds, draw, suite_of
from tests.support.synthetic import ALL

FINDING = "gelu-beats-relu"
FOUR = ("Model3", "Model4", "Model5", "Model6")
NEEDED = (*(f"lr_{name}" for name in FOUR), *FOUR)  # by the finding


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_session_comes_to_what_the_plain_runs_histories_say(project: TinyProject, seed: int) -> None:
    assert_holds(project, draw(seed))


def test_each_worker_computes_its_own_share_of_the_banks_first(project: TinyProject) -> None:
    with (project.path / "conftest.py").open("a") as conftest:
        conftest.write("""
def pytest_collection_finish(session):
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        Path(f"{worker}.txt").write_text(str(session.config.pluginmanager.getplugin("kvbench-session").started.share))
""")
    project.run(suite_of(["Model1"], [], workers=2))
    shares = [(project.path / f"gw{worker}.txt").read_text() for worker in range(2)]
    assert shares == ["Share(number=1, count=2)", "Share(number=2, count=2)"]


# Order and selection


def test_failed_first_judges_a_finding_when_its_configurations_are_trained(project: TinyProject) -> None:
    broken = suite_of(NEEDED, [FINDING], unrecorded=FINDING)
    assert project.run(broken, "--ff")[0] == 1
    code, result = project.run(suite_of(NEEDED, [FINDING]), "--ff")
    assert code == 1
    assert result is not None
    assert result.checks[FINDING].outcome is Outcome.FAILED


@pytest.mark.parametrize("order", ["plain", "late"])
def test_a_failed_finding_is_not_forgotten_by_last_failed(project: TinyProject, order: str) -> None:
    assert project.run(suite_of(NEEDED, [FINDING], unrecorded=FINDING, order=order), "--lf")[0] == 1
    assert f"FAILED benchmarks/test_ablation.py::test_finding[[]{FINDING}]".replace("[[]", "[") in project.stdout
    for _ in range(2):
        code, _ = project.run(suite_of(NEEDED, [FINDING]), "--lf")
        assert code == 1
        told = " ".join(project.stdout.split())
        assert f"{FINDING} was not judged, as the session lacks complete trainings of" in told


@pytest.mark.parametrize(
    "drawn", [suite_of(["Model1"], [FINDING]), suite_of([n for n in NEEDED if n in FOUR], [FINDING])]
)
def test_a_finding_that_lacks_configurations_of_any_recipe_fails(project: TinyProject, drawn: Drawn) -> None:
    code, result = project.run(drawn)
    assert code == 1
    assert result is not None
    assert result.checks[FINDING].outcome is Outcome.INCOMPLETE
    assert result.outcome is Outcome.FAILED


def test_configurations_alone_pass_and_the_save_says_incomplete(project: TinyProject) -> None:
    code, result = project.run(suite_of(["Model1", "lr_Model2"], []), "--benchmark-json=run.json")
    assert code == 0
    assert result is not None
    assert result.outcome is Outcome.INCOMPLETE
    assert set(result.not_compared) == {*ALL, *FINDINGS} - {"Model1", "lr_Model2"}
    assert read(project.path / "run.json").outcome == Outcome.INCOMPLETE


def test_everything_passes(project: TinyProject) -> None:
    code, result = project.run(project.plain)
    assert code == 0
    assert result is not None
    assert result.outcome is Outcome.PASSED
    assert not result.not_compared
    assert not result.reasons


# What is selected and not compared


class Marks:
    """Adds a mark to every test of a name."""

    def __init__(self, mark: pytest.MarkDecorator):
        self.mark = mark

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if "Model1" in item.nodeid:
                item.add_marker(self.mark)


class Raises:
    """Ends the session after a test of Model1, or lets a hook break."""

    def __init__(self, end: Callable[[], object], after: str = "[Model1]"):
        self.end, self.after = end, after

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if item.nodeid.endswith(self.after):
            self.end()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _break() -> None:
    raise RuntimeError("a hook of the user's")


ENDS = {
    "exit with status 0": lambda: pytest.exit("enough", returncode=0),
    "exit": lambda: pytest.exit("enough"),
    "interrupt": _interrupt,
    "a hook breaks": _break,
}


@pytest.mark.parametrize("mark", [pytest.mark.skip(reason="too slow"), pytest.mark.skipif("True", reason="here")])
def test_a_skipped_training_is_no_pass(project: TinyProject, mark: pytest.MarkDecorator) -> None:
    code, result = project.run(suite_of(["Model1", "Model2"], []), plugins=[Marks(mark)])
    assert code == 1
    assert result is not None
    assert [result.checks[name].outcome for name in ("Model1", "Model2")] == [Outcome.INCOMPLETE, Outcome.PASSED]
    assert "selected and not compared: Model1. To leave something out, do not select it" in project.stdout


def test_a_mark_does_not_excuse_a_curve_that_left_its_reference(project: TinyProject) -> None:
    code, result = project.run(suite_of(["Model1"], [], moved="Model1"), plugins=[Marks(pytest.mark.xfail)])
    assert code == 1
    assert result is not None
    assert result.checks["Model1"].outcome is Outcome.FAILED


@pytest.mark.parametrize("switch", ["--benchmark-disable", "--benchmark-only"])
def test_switches_of_the_benchmark_change_no_verdict(project: TinyProject, switch: str) -> None:
    drawn = suite_of(NEEDED, [FINDING], unrecorded=FINDING)
    code, result = project.run(drawn, switch)
    assert code == 1
    assert result is not None
    assert [name for name, check in result.checks.items() if check.outcome is not Outcome.PASSED] == [FINDING]


def test_benchmark_skip_selects_nothing(project: TinyProject) -> None:
    code, result = project.run(project.plain, "--benchmark-skip")
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert result is None


def test_setting_up_is_no_pass_and_collecting_is_nothing(project: TinyProject) -> None:
    assert project.run(suite_of(["Model1"], []), "--setup-only")[0] == 1
    code, result = project.run(project.plain, "--collect-only", "-q")
    assert code == 0
    assert result is None
    assert "kvbench: tiny" not in project.stdout


@pytest.mark.parametrize("how", ENDS)
def test_a_session_that_ends_early_is_no_pass(project: TinyProject, how: str) -> None:
    code, _ = project.run(suite_of(["Model1", "Model2"], []), plugins=[Raises(ENDS[how])])
    assert code != 0
    if how == "exit with status 0":
        assert "selected and not compared: Model2" in project.stdout


def test_an_error_while_a_test_is_torn_down_fails_the_session(project: TinyProject) -> None:
    code, result = project.run(
        suite_of(["Model1"], []), "--benchmark-json=run.json", plugins=[Raises(_break, "[Model1]")]
    )
    assert code == 1
    assert result is not None
    assert result.outcome is Outcome.FAILED
    assert "test_configuration[Model1]" in read(project.path / "run.json").reasons[0]


def test_two_trainings_that_disagree_are_named(project: TinyProject) -> None:
    (project.path / "benchmarks" / "test_more.py").write_text(
        "def test_again(kvbench_training, kvbench_compare):\n"
        "    kvbench_training.runs[1].optimizer.param_groups[0]['lr'] *= 1.000001\n"
        "    kvbench_training.finish()\n"
    )
    drawn = suite_of(["Model1"], [])
    code, result = project.run(Drawn(0, (*drawn.tests, "test_again[Model1]")), "--benchmark-json=run.json")
    assert code == 1
    assert result is not None
    (reason,) = result.reasons
    assert reason.startswith("FAILED: Model1 is not repeatable: it was trained 2 times in this session, and ")
    assert "of seed 1 in epoch 1 is 0." in reason
    assert (
        "not repeatable"
        in of_saved(read(project.path / "run.json"), STUDY.design, project.path / "expected").markdown()
    )


def test_a_users_test_with_parameters_of_its_own_is_one_history(project: TinyProject) -> None:
    (project.path / "benchmarks" / "test_more.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('other', [1, 2])\n"
        "def test_again(kvbench_training, kvbench_compare, benchmark, other):\n"
        "    benchmark.pedantic(kvbench_training.epoch, teardown=kvbench_training.evaluate)\n"
        "    kvbench_compare(kvbench_training)\n"
    )
    drawn = Drawn(0, ("test_again[Model1-1]", "test_again[1-Model1]", "test_again[Model1-2]"))
    assert project.run(drawn, "--benchmark-json=run.json")[0] == 0
    assert "| Model1 " in of_saved(read(project.path / "run.json"), STUDY.design, project.path / "expected").markdown()


OTHER = "replace(own.configuration, student=replace(own.configuration.student, name='Model2'))"


@pytest.mark.parametrize("mine", [f"Training({OTHER}, *banks, [0, 1])", "None"])
def test_a_training_of_ones_own_is_not_compared_in_anothers_name(project: TinyProject, mine: str) -> None:
    (project.path / "benchmarks" / "test_more.py").write_text(
        "from dataclasses import replace\n"
        "from kvbench.core.trainer import Training\n"
        "def test_again(kvbench_training, kvbench_compare):\n"
        "    own = kvbench_training\n"
        "    banks = own.runs[0].train, own.runs[0].val\n"
        f"    kvbench_compare({mine})\n"
    )
    code, result = project.run(Drawn(0, ("test_again[Model1]",)))
    assert code == 1
    assert result is not None
    assert result.checks["Model1"].outcome is Outcome.INCOMPLETE
    assert "kvbench_compare takes the training that the same test has of kvbench_training." in project.stdout


def test_what_ends_a_session_fails_the_tests_of_a_worker(project: TinyProject) -> None:
    conftest = project.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace(
            "register(pytest.MonkeyPatch())",
            "register(pytest.MonkeyPatch())\n"
            "    from kvbench.harness.setup import Settings\n"
            "    from kvbench.utils.errors import UserError\n"
            "    def teacher(*_): raise UserError('There is no teacher.')\n"
            "    Settings.teacher = teacher",
        )
    )
    code, _ = project.run(suite_of(["Model2"], []), "-n1", "--kvbench-cache", "other")
    assert code == 1
    assert "There is no teacher." in project.stdout
    assert "INTERNALERROR" not in project.stdout


@pytest.mark.parametrize("how", [("--stepwise",), ("-x", "-n1")])
def test_stopping_at_a_failure_is_no_ctrl_c(project: TinyProject, how: tuple[str, ...]) -> None:
    code, result = project.run(suite_of(["Model1", "Model2"], [], moved="Model1"), *how)
    assert code == pytest.ExitCode.INTERRUPTED
    assert result is not None
    assert [result.checks[name].outcome for name in ("Model1", "Model2")] == [Outcome.FAILED, Outcome.INCOMPLETE]
    assert "Ctrl-C" not in project.stdout


def test_a_module_that_breaks_is_no_ctrl_c(project: TinyProject) -> None:
    (project.path / "benchmarks" / "test_more.py").write_text("raise ValueError('a module of the user')\n")
    assert project.run(suite_of(["Model1"], []))[0] == pytest.ExitCode.INTERRUPTED
    assert "Ctrl-C" not in project.stdout


# References of broken sessions


def _content(project: TinyProject) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.path / "expected" / "tiny").iterdir()}


@pytest.mark.parametrize("how", [*ENDS, "failed", "partial", "skipped", "flaky", "left out"])
def test_a_session_that_broke_updates_no_reference(project: TinyProject, how: str) -> None:
    before = _content(project)
    tests = suite_of(["Model1", "Model2"], []).tests
    plugins: list[object] = []
    if how in ENDS:
        plugins = [Raises(ENDS[how], "[Model2]")]  # both are trained
    elif how == "failed":
        (project.path / "benchmarks" / "test_more.py").write_text("def test_other():\n    assert 0\n")
        tests += ("test_other",)
    elif how == "skipped":
        plugins = [Marks(pytest.mark.skip)]
    elif how == "left out":
        plugins = [Raises(ENDS["exit with status 0"])]
    else:
        tests += (f"test_{how}[lr_Model1]",)
    code, _ = project.run(Drawn(0, tests), "--kvbench-update-expected", plugins=plugins)
    assert code != 0
    assert _content(project) == before
    if how != "interrupt":
        assert "References NOT updated: " in project.stdout


def test_a_whole_session_updates_what_it_selected(project: TinyProject) -> None:
    before = _content(project)
    code, _ = project.run(suite_of(["Model1"], []), "--kvbench-update-expected", "--kvbench-seeds", "1:4")
    assert code == 1
    assert "This run fails by design, so that no reference changes unnoticed" in project.stdout
    assert _content(project) != before
