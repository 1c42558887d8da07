"""Drawn sessions of the tiny workload, and what each must come to: a function of the plain run's histories alone."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvbench.findings.judge import judge
from kvbench.harness import resume, session, summary
from kvbench.harness.result import Result
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference, load
from kvbench.results import history
from kvbench.results.saved import Outcome, read
from tests.support import ROOT
from tests.support.tiny import STUDY, register

KEPT = (resume, session, summary)  # imported here: pytester forgets what a session in this process imports first
DESIGN = STUDY.design
ALL, FINDINGS = DESIGN.names, tuple(DESIGN.findings)
MORE_TESTS = """\
import pytest

ATTEMPTS = []

def test_again(kvbench_training, kvbench_compare):
    kvbench_compare(kvbench_training)

def test_silent(kvbench_training):
    kvbench_training.finish()

def test_partial(kvbench_training):
    kvbench_training.epoch()
    kvbench_training.evaluate()

def test_flaky(kvbench_training, request):
    kvbench_training.epoch()
    kvbench_training.evaluate()
    ATTEMPTS.append(request.node.nodeid)
    assert ATTEMPTS.count(request.node.nodeid) > 1, "a user's test that breaks at its first attempt"
    kvbench_training.finish()
"""

CONFTEST = f"""\
import json, os, random, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import pytest
from _pytest.runner import runtestprotocol
if "PYTEST_XDIST_WORKER" in os.environ:
    from tests.support.tiny import STUDY, register
    register(pytest.MonkeyPatch())
DRAWN = json.loads(Path(__file__).with_name("drawn.json").read_text())

def order(items):
    if DRAWN["order"] != "plain":
        items.sort(key=lambda item: item.nodeid)
        random.Random(DRAWN["seed"]).shuffle(items)

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    keep = [item for item in items if item.nodeid.rpartition("::")[2].replace("-again0]", "]").replace("-again1]", "]")
            in DRAWN["tests"]]
    config.hook.pytest_deselected(items=[item for item in items if item not in keep])
    items[:] = keep
    if DRAWN["order"] == "random":
        order(items)

@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session):
    if DRAWN["order"] == "late":  # behind the back of whoever orders tests
        order(session.items)

@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info():  # the usual ones take a second
    return {{}}

@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_commit_info():
    return {{}}

@pytest.fixture
def again(request):
    return request.param

def pytest_generate_tests(metafunc):  # as pytest-repeat does
    if DRAWN["count"] > 1:
        metafunc.fixturenames.append("again")
        metafunc.parametrize("again", ["again0", "again1"], indirect=True)

def pytest_runtest_protocol(item, nextitem):  # as pytest-rerunfailures does
    if not DRAWN["reruns"]:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(DRAWN["reruns"] + 1):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = attempt < DRAWN["reruns"] and any(report.failed for report in reports)
        for report in reports:
            if again and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not again:
            break
        item._initrequest()
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


@dataclass(frozen=True)
class Drawn:
    """A session: which tests in which order, how often, in how many processes, against which reference."""

    seed: int
    tests: tuple[str, ...]
    order: str = "plain"
    count: int = 1
    reruns: int = 0
    stop: bool = False
    workers: int = 0
    moved: str = ""  # a configuration whose recorded losses are others
    unrecorded: str = ""  # a finding of whose verdicts one is not recorded

    @property
    def arguments(self) -> list[str]:
        return ["-x"] * self.stop + [f"-n{self.workers}"] * bool(self.workers)

    def selected(self, test: str) -> list[str]:
        """The parameters with which a test was drawn."""
        return [name.partition("[")[2].rstrip("]") for name in self.tests if name.startswith(f"{test}[")]

    def expected(self, plain: pd.DataFrame, reference: Reference) -> dict[str, Outcome]:
        """What each selected configuration and finding comes to."""
        complete = {c for test in ("test_configuration", "test_again", "test_silent") for c in self.selected(test)}
        complete |= set(self.selected("test_flaky")) if self.reruns or self.count > 2 else set()
        trained = plain[plain["configuration"].isin(complete)]
        states = {}
        for name in ALL:
            tests = ("test_configuration", "test_again", "test_silent", "test_partial", "test_flaky")
            if any(name in self.selected(test) for test in tests):
                states[name] = Outcome.INCOMPLETE
            if name in complete:
                failed = compare(reference, trained, name, None, (0, 1), reference.rng_fingerprint).failed
                states[name] = Outcome.FAILED if failed else Outcome.PASSED
        judged = judge(trained, DESIGN, reference.costs) if len(trained) else []
        for name in self.selected("test_finding"):
            mine = [judgement for judgement in judged if judgement.finding.id == name]
            changes = verdict_changes(reference, mine, sorted(complete))
            states[name] = (
                Outcome.INCOMPLETE if len(mine) < len(DESIGN.needs(DESIGN.finding(name)))
                else Outcome.FAILED if any(change.failed for change in changes)
                else Outcome.NOT_CONFIRMED if any(change.unconfirmed for change in changes)
                else Outcome.PASSED
            )  # fmt: skip
        return states

    def passes(self, states: dict[str, Outcome]) -> bool:
        """Whether the exit status is 0."""
        broken = self.selected("test_flaky") and not self.reruns
        return not broken and not {Outcome.FAILED, Outcome.INCOMPLETE} & set(states.values())


def draw(seed: int, *, workers: int = 0) -> Drawn:
    """A session drawn with a seed."""
    dice = random.Random(seed)

    def some(names: Sequence[str], most: float) -> list[str]:
        return [name for name in names if dice.random() < dice.choice([0.0, most])]

    everything = dice.random() < 0.6
    configurations = list(ALL) if everything else some(ALL, 0.9)
    found = list(DESIGN.findings) if dice.random() < 0.5 else some(list(DESIGN.findings), 0.5)
    tests = [f"test_configuration[{name}]" for name in configurations] + [f"test_finding[{name}]" for name in found]
    for test, chance in (("again", 0.3), ("silent", 0.3), ("partial", 0.3), ("flaky", 0.2)):
        if dice.random() < chance:
            tests.append(f"test_{test}[{dice.choice(configurations or ALL)}]")
    bad = dice.choice(["", "", "moved", "unrecorded"])
    return Drawn(
        seed,
        tuple(tests or ["test_configuration[Model1]"]),
        dice.choice(["plain", "random", "late"]),
        dice.choice([1, 1, 2]),
        dice.choice([0, 0, 2]),
        dice.random() < 0.2,
        workers,
        dice.choice(ALL) if bad == "moved" else "",
        dice.choice(list(DESIGN.findings)) if bad == "unrecorded" else "",
    )


class Log(logging.Handler):
    """Keeps what kvbench logs meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger("kvbench").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("kvbench").removeHandler(self)


class Grab:
    """A plugin that keeps the session's result."""

    result: Result | None = None

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        plugin = config.pluginmanager.getplugin("kvbench-session")
        session = plugin.started if plugin else None
        self.result = session.collector.result if session is not None else None


@pytest.fixture(scope="session")
def tiny_recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first project leaves a bank, references and the plain run's histories for the others."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture
def project(pytester: pytest.Pytester, tiny_recorded: Path) -> TinyProject:
    return TinyProject(pytester, tiny_recorded)


class TinyProject:
    """A project with the shipped suite, further tests, and references of the tiny workload.

    Args:
        pytester: whose folder it is.
        recorded: a folder for banks, references and the plain run's histories, shared by all projects.
    """

    def __init__(self, pytester: pytest.Pytester, recorded: Path):
        self.pytester, self.path, self.recorded = pytester, pytester.path, recorded
        (self.path / "benchmarks").mkdir()
        shutil.copy(ROOT / "benchmarks" / "test_ablation.py", self.path / "benchmarks")
        (self.path / "benchmarks" / "test_more.py").write_text(MORE_TESTS)
        (self.path / "conftest.py").write_text(CONFTEST)
        pytester.makeini("[pytest]\nkvbench_workload = tiny\nkvbench_cache = .kvbench\n")
        every = tuple(f"test_configuration[{name}]" for name in ALL) + tuple(
            f"test_finding[{f}]" for f in DESIGN.findings
        )
        self.plain = Drawn(0, every)
        if not (recorded / "plain.json").exists():
            self.run(self.plain, "--kvbench-update-expected", "--kvbench-seeds", "6")
            self.run(self.plain, "--benchmark-json=plain.json")
            for name in (".kvbench", "expected"):
                shutil.copytree(self.path / name, recorded / name)
            shutil.copy(self.path / "plain.json", recorded)
        else:
            for name in (".kvbench", "expected"):
                shutil.copytree(recorded / name, self.path / name)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """The plain run's."""
        content = json.loads((self.recorded / "plain.json").read_text())
        return history.frame(row for one in content["benchmarks"] for row in one["extra_info"]["kvbench"]["history"])

    @property
    def reference(self) -> Reference:
        return load(self.path / "expected", "tiny", DESIGN)

    def run(
        self,
        drawn: Drawn,
        *arguments: str,
        plugins: Sequence[object] = (),
        disturb: Callable[[pytest.MonkeyPatch], object] = lambda _: None,
    ) -> tuple[int, Result | None]:
        """Run a session; its exit status and result. ``disturb`` patches what it runs on."""
        remembers = any(argument in {"--lf", "--ff", "--stepwise", "--cache-show"} for argument in arguments)
        self._disturb(drawn)
        (self.path / "drawn.json").write_text(json.dumps(asdict(drawn)))
        grab, kept = Grab(), Log()
        with pytest.MonkeyPatch.context() as patch, kept:
            register(patch)
            for program in ("plugin.get_tag", "session.get_machine_id"):  # what pytest-benchmark would start
                patch.setattr(f"pytest_benchmark.{program}", lambda *_: "here")
            disturb(patch)
            ended = self.pytester.runpytest_inprocess(
                "benchmarks", *(() if remembers else ("-p", "no:cacheprovider")), "-p", "no:hypothesispytest",
                "-p", "no:cov", *drawn.arguments, *arguments, plugins=[grab, *plugins], no_reraise_ctrlc=True,
            )  # fmt: skip
        self.logged = kept.messages
        self.stdout = ended.stdout.str()
        self.stderr = ended.stderr.str()
        return int(ended.ret), grab.result

    def _disturb(self, drawn: Drawn) -> None:
        """Make the reference the one that was drawn."""
        home = self.path / "expected" / "tiny"
        if drawn.moved:
            lines = [line.split(",") for line in (home / "histories.csv").read_text().splitlines()]
            for cells in lines:
                if cells[0] == drawn.moved:
                    cells[3] = f"{float(cells[3]) * 1e9:.6g}"
            (home / "histories.csv").write_text("\n".join(",".join(cells) for cells in lines) + "\n")
        if drawn.unrecorded:
            rows = (home / "verdicts.csv").read_text().splitlines()
            rows.remove(next(row for row in rows if row.startswith(f"{drawn.unrecorded},")))
            (home / "verdicts.csv").write_text("\n".join(rows) + "\n")


def assert_holds(project: TinyProject, drawn: Drawn) -> None:
    """A drawn session ends as the plain run's histories say, with the same histories bit by bit."""
    code, result = project.run(drawn, "--benchmark-json=run.json")
    states = drawn.expected(project.histories, project.reference)
    said = f"{drawn}\n{project.stdout}"
    assert code == (0 if drawn.passes(states) else 1), said
    assert result is not None, said
    if not drawn.stop or code == 0:
        assert {name: check.outcome for name, check in result.checks.items()} == states, said
    if (project.path / "run.json").exists():
        saved = read(project.path / "run.json")
        assert saved.outcome == result.outcome, said
        keys = ["configuration", "seed", "epoch"]
        plain = project.histories.set_index(keys).drop(columns="seconds")
        mine = saved.histories.set_index(keys).drop(columns="seconds")
        assert mine.equals(plain.loc[mine.index]), said


def suite_of(names: Sequence[str] = ALL, findings: Sequence[str] = FINDINGS, **changes: Any) -> Drawn:
    """A session of these configurations and findings in the shipped suite."""
    chosen = [f"test_configuration[{name}]" for name in names] + [f"test_finding[{name}]" for name in findings]
    return Drawn(0, tuple(chosen), **changes)
