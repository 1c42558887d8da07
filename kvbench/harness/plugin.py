"""The pytest plugin: options, hooks, terminal summary. Only it and its parts, ``plugin_*.py``, import pytest.

Light to import, since pytest loads it in every project where kvbench is installed: torch, pandas and scipy come with
the first test that needs them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.harness import fixtures as plugin_fixtures
from kvbench.harness.fixtures import MOVED, PLUGIN, RESUMING, TRAINING
from kvbench.harness.interrupts import Resuming, uncaptured
from kvbench.harness.options import FRESH, OPTIONS, Option
from kvbench.utils.errors import UserError
from kvbench.utils.text import plain

if TYPE_CHECKING:
    from kvbench.harness.session import Session


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kvbench", "kvbench: keep the findings of an ablation true")
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        group.addoption(option.flag, metavar=option.name.upper(), help=f"{option.help}{default}; ini: {option.ini}")
        parser.addini(option.ini, option.help, default=option.default)
    group.addoption(
        "--kvbench-update-expected",
        action="store_true",
        help="write this run's histories and verdicts as the new reference, show the difference, and fail the run",
    )
    group.addoption(FRESH, action="store_true", help="use nothing that an interrupted run left; remove it, start over")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kvbench: on every test that trains or judges for kvbench")
    config.stash[RESUMING] = Resuming(config, lambda: config.stash[PLUGIN].started)
    config.stash[PLUGIN] = KvbenchPlugin(config)
    config.pluginmanager.register(config.stash[PLUGIN], "kvbench-session")
    config.pluginmanager.register(config.stash[RESUMING], "kvbench-resuming")
    config.pluginmanager.register(plugin_fixtures, "kvbench-fixtures")


def parameter(item: pytest.Item, name: str) -> Any:
    """The value that a test is parametrized with for the fixture ``name``, or None."""
    return getattr(getattr(item, "callspec", None), "params", {}).get(name)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn our errors into pytest's, which end the session with one sentence."""
    try:
        yield
    except UserError as error:
        raise pytest.UsageError(str(error)) from None


class KvbenchPlugin:
    """The hooks of one pytest session; what they know is in a `Session`, made at the first need."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.started: Session | None = None
        self._logs = contextlib.ExitStack()  # while it is open, records go past the capture to the terminal
        # What was asked for and cannot be had is told before anything else happens; defaults cost no import.
        if any(self.option(row.name) != row.default for row in OPTIONS):
            _ = self.session
        if self.option("device") not in {"auto", "cpu"} and not config.option.collectonly:
            with usage_errors():
                from kvbench.harness.setup import resolve_device

                resolve_device(self.option("device"))

    def option(self, name: str) -> str:
        """An option's value: from the command line, else from the ini file, else its default."""
        row = next(row for row in OPTIONS if row.name == name)
        given = self.config.getoption(row.flag)
        return str(self.config.getini(row.ini) if given is None else given) or row.default

    def value(self, row: Option) -> Any:
        """An option's parsed value; a path is relative to the current directory, or to rootdir in an ini file."""
        value = row.parse(self.option(row.name))
        if isinstance(value, Path):
            given = self.config.getoption(row.flag) is not None
            return (self.config.invocation_params.dir if given else self.config.rootpath) / value
        return value

    @property
    def session(self) -> Session:
        """The session; raises `pytest.UsageError` where an option makes no sense."""
        if self.started is None:
            from kvbench.harness.session import Session
            from kvbench.utils.logs import show_logs
            from kvbench.utils.progress import ProgressBar

            progress = ProgressBar(functools.partial(uncaptured, self.config))
            self._logs.enter_context(show_logs(progress, self.config.get_verbosity()))
            update, fresh = self.config.getoption("--kvbench-update-expected"), self.config.getoption(FRESH)
            with usage_errors():
                values = {row.name: self.value(row) for row in OPTIONS}
            texts = {row.name: self.option(row.name) for row in OPTIONS}
            self.started = Session(texts, values, progress, update=update, fresh=fresh)
        return self.started

    def pytest_unconfigure(self) -> None:
        self._logs.close()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "kvbench_configuration" in metafunc.fixturenames:
            rows = self.session.configurations()
            metafunc.parametrize("kvbench_configuration", rows, ids=[row.id for row in rows], indirect=True)
        if "kvbench_finding" in metafunc.fixturenames:
            metafunc.parametrize("kvbench_finding", self.session.finding_ids, indirect=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if parameter(item, "kvbench_configuration") or parameter(item, "kvbench_finding"):
                item.add_marker("kvbench")
        items.sort(key=lambda item: parameter(item, "kvbench_finding") is not None)  # they need every history

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        training = [item for item in session.items if parameter(item, "kvbench_configuration")]
        if training:
            self.session.trainings_ahead = len(training)
            self.session.test_folders = {item.path.parent for item in training}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        configuration, finding = parameter(item, "kvbench_configuration"), parameter(item, "kvbench_finding")
        if configuration or finding:
            record = None
            if call.when == "call" and TRAINING in item.stash:
                record = self.session.record(item.stash[TRAINING], item.stash.get(MOVED, None))
                item.funcargs["benchmark"].extra_info["kvbench"] = record  # type: ignore[attr-defined]
                del item.stash[TRAINING]  # its modules and optimisers would stay in memory to the session's end
            # A plain attribute of a report travels from xdist's workers to the session that judges.
            name = configuration.id if configuration else None
            report.kvbench = {"configuration": name, "finding": finding, "record": record}  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen = getattr(report, "kvbench", None)
        if seen is not None:
            outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            self.session.collector.absorb(seen, report.nodeid, report.when or "", outcome)

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-benchmark saves, so that the save tells the outcome
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        worker = hasattr(self.config, "workerinput")
        if self.started is not None and self.started.collector.seen and not worker:
            self.started.progress.close()
            if not self.started.stopped:  # whoever stops a run does not want to wait for its tables
                with self.config.stash[RESUMING].stops(session):
                    self.started.collector.finish(tests_failed=session.testsfailed > 0)
            if self.started.collector.reasons and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_benchmark_generate_json(self, benchmarks: list[Any]) -> None:
        # Of what was stopped in its first epoch there are no seconds, which pytest-benchmark would stumble over.
        benchmarks[:] = [one for one in benchmarks if one or one.has_error]

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        if self.started is not None and self.started.collector.seen:
            output_json["kvbench"] = self.started.collector.outcome(output_json["benchmarks"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.started is not None and self.started.collector.seen and not self.started.stopped:
            terminalreporter.section(f"kvbench: {self.started.workload.name}")
            for line in plain(self.started.collector.summary).split("\n"):
                terminalreporter.line(line)
            for reason in self.started.collector.reasons:
                terminalreporter.line(plain(f"\n{reason}"), red=True)
