"""The pytest plugin: options, hooks, terminal summary.

Light to import, since pytest loads it in every project where kvbench is installed: torch, pandas and scipy come with
the first test that needs them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.core.recipe import Configuration
from kvbench.harness import fixtures, hookspecs
from kvbench.harness.fixtures import RECORD, RESUMING, SESSION, TRAINING, message
from kvbench.harness.interrupts import Resuming, uncaptured
from kvbench.harness.options import FRESH, OPTIONS, VERIFY, Option
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.text import fold, plain

if TYPE_CHECKING:
    from kvbench.harness.record import Record
    from kvbench.harness.session import Session
    from kvbench.reporting.screen import Line

TIMINGS: dict[str, Any] = {  # options about what pytest-benchmark shows, with its defaults
    "benchmark_columns": None, "benchmark_compare": [], "benchmark_compare_fail": None, "benchmark_cprofile": None,
    "benchmark_group_by": "group", "benchmark_histogram": [], "benchmark_name": "normal", "benchmark_sort": "min",
    "benchmark_time_unit": None, "benchmark_verbose": False,
}  # fmt: skip
SELECTED = "kvbench-selected"  # what a worker was to compare, on its way to the session that judges


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kvbench", "kvbench: keep the findings of an ablation true")
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        several: dict[str, Any] = {"nargs": "+", "action": "extend"} if option.several else {}
        text = f"{option.help}{default}; ini: {option.ini}"
        group.addoption(option.flag, metavar=option.name.upper(), help=text, **several)
        parser.addini(option.ini, option.help, default=option.default)
    group.addoption(
        "--kvbench-update-expected",
        action="store_true",
        help="write this run's histories and verdicts as the new reference, show the difference, and fail the run",
    )
    group.addoption(FRESH, action="store_true", help="use nothing that an interrupted run left; remove it, start over")
    group.addoption(VERIFY, action="store_true", help="read feature banks whole and compare all checksums before use")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kvbench: on every test that trains or judges for kvbench")
    plugin = KvbenchPlugin(config)
    config.stash[SESSION] = lambda: plugin.session
    config.stash[RESUMING] = Resuming(config, lambda: plugin.started)
    config.pluginmanager.register(plugin, "kvbench-session")
    config.pluginmanager.register(config.stash[RESUMING], "kvbench-resuming")
    config.pluginmanager.register(fixtures, "kvbench-fixtures")


def parameter(item: pytest.Item, name: str) -> Any:
    """The value that a test is parametrized with for the fixture ``name``, or None."""
    value = getattr(getattr(item, "callspec", None), "params", {}).get(name)
    return value if isinstance(value, (str, Configuration)) else None  # pytest's own where there are no findings


def selects(item: pytest.Item) -> str:
    """The configuration or finding that a test is about; empty if it is about neither."""
    configuration = parameter(item, "kvbench_configuration")
    return str(configuration.id if configuration else parameter(item, "kvbench_finding") or "")


def fixture_names(item: pytest.Item) -> list[str]:
    """The fixtures that a test asks for."""
    return getattr(item, "fixturenames", [])


def trains(item: pytest.Item) -> bool:
    """Whether a test asks for a configuration's training."""
    return "kvbench_training" in fixture_names(item) and parameter(item, "kvbench_configuration") is not None


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
        self.interrupted = False  # something ended the session before its last test
        self.summary: list[Line] = []
        # What was asked for and cannot be had is told before anything else happens; defaults cost no import.
        if any(self.option(row.name) != row.default for row in OPTIONS):
            _ = self.session
        if self.option("device") not in {"auto", "cpu"} and not config.option.collectonly:
            with usage_errors():
                from kvbench.harness.setup import resolve_device

                resolve_device(self.option("device"))

    @property
    def worker(self) -> bool:
        """Whether this process is a worker of pytest-xdist, whose reports another process collects."""
        return hasattr(self.config, "workerinput")

    def option(self, name: str) -> str:
        """An option's value: from the command line, else from the ini file, else its default."""
        row = next(row for row in OPTIONS if row.name == name)
        given = self.config.getoption(row.flag)
        given = " ".join(given) if isinstance(given, list) else given
        return str(self.config.getini(row.ini) if given is None else given) or row.default

    def value(self, row: Option) -> Any:
        """An option's parsed value; a path is relative to the current directory, or to rootdir beside an ini file."""
        value = row.parse(self.option(row.name))
        if isinstance(value, Path):
            # Without an ini file pytest takes rootdir from all arguments that are paths, such as a cache elsewhere.
            here = self.config.getoption(row.flag) is not None or self.config.inipath is None
            return (self.config.invocation_params.dir if here else self.config.rootpath) / value
        return value

    @property
    def session(self) -> Session:
        """The session; raises `pytest.UsageError` where an option makes no sense."""
        if self.started is None:
            from kvbench.harness.projects import experiment, registered
            from kvbench.harness.session import Session
            from kvbench.utils.logs import show_logs
            from kvbench.utils.progress import ProgressBar

            verbosity = self.config.get_verbosity()
            progress = ProgressBar(functools.partial(uncaptured, self.config), quiet=verbosity < 0)
            self._logs.enter_context(show_logs(progress, verbosity))
            names = {"update": "--kvbench-update-expected", "fresh": FRESH, "verify": VERIFY}
            flags = {name: bool(self.config.getoption(flag)) for name, flag in names.items()}
            with usage_errors():
                values = {row.name: self.value(row) for row in OPTIONS}
                chosen = experiment(values, registered(self.config))
            texts = {row.name: self.option(row.name) for row in OPTIONS}
            self.started = Session(texts, values, chosen, progress, **flags)
            if self.worker:
                from kvbench.utils.shares import Share

                place = self.config.workerinput  # type: ignore[attr-defined]
                number, count = int(place["workerid"].removeprefix("gw")), place["workercount"]
                self.started.share = Share(number % count + 1, count)
            if values["engine"] == "ray":
                from kvbench.harness.engine import run

                self.started.engine = run
        return self.started

    def pytest_unconfigure(self) -> None:
        self._logs.close()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "kvbench_configuration" in metafunc.fixturenames:
            rows = self.session.experiment.configurations
            metafunc.parametrize("kvbench_configuration", rows, ids=[row.id for row in rows], indirect=True)
        if "kvbench_finding" in metafunc.fixturenames:
            metafunc.parametrize("kvbench_finding", list(self.session.experiment.design.findings), indirect=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        for item in items:
            if selects(item):
                item.add_marker("kvbench")
        yield
        # After whatever else orders tests: judging is told test by test where all that trains comes first.
        items.sort(key=lambda item: parameter(item, "kvbench_finding") is not None)
        options = self.config.option
        if getattr(options, "benchmark_skip", False) and not getattr(options, "benchmark_only", False):
            self.leave_out(items)

    def leave_out(self, items: list[pytest.Item]) -> None:
        """Deselect what ``--benchmark-skip`` leaves out, and the findings, which then lack their trainings."""
        skipped = [item for item in items if trains(item) and "benchmark" in fixture_names(item)]
        if skipped:
            skipped += [item for item in items if parameter(item, "kvbench_finding")]
            self.config.hook.pytest_deselected(items=skipped)
            items[:] = [item for item in items if item not in skipped]

    def configurations(self, items: Sequence[pytest.Item]) -> list[Configuration]:
        """What tests train, each once, in their order."""
        rows = [parameter(item, "kvbench_configuration") for item in items if trains(item)]
        return list({row.id: row for row in rows}.values())

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        training = [item for item in session.items if trains(item)]
        if training:
            self.session.trainings_ahead = len(training)
            self.session.rows = self.configurations(training)
            self.session.test_folders = {item.path.parent for item in training}
        for item in session.items:
            if (trains(item) or parameter(item, "kvbench_finding")) and not self.config.option.collectonly:
                self.session.collector.select(selects(item), item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        try:
            return (yield)
        except UserError as error:  # of a training in the test's own hands
            problem = str(error)
            if not selects(item):
                raise
        pytest.fail(plain(problem), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if selects(item):
            record = None
            training = item.stash.get(TRAINING, None)
            if call.when == "call" and training is not None:
                record = item.stash.get(RECORD, None) or self.session.record(training)
                # Its modules and optimisers would stay in memory to the session's end, the record for the next attempt.
                item.stash[TRAINING] = None
                item.stash[RECORD] = None
            if call.when == "call":
                with best_effort(f"leave the numbers of {selects(item)} for JUnit"):
                    self.leave_numbers(item, report, record)
            # A plain attribute of a report travels from xdist's workers to the session that judges.
            configuration = parameter(item, "kvbench_configuration")
            report.kvbench = {  # type: ignore[attr-defined]
                "configuration": configuration.id if configuration else None,
                "finding": parameter(item, "kvbench_finding"),
                "record": record,
            }
        return report

    def leave_numbers(self, item: pytest.Item, report: pytest.TestReport, record: Record | None) -> None:
        """Make properties of the test of what was trained or judged, which JUnit files have."""
        from kvbench.harness import ci

        ours: ci.Properties = []
        if record is not None:
            ours = ci.of_record(record)
        elif (finding := parameter(item, "kvbench_finding")) and (not report.skipped or hasattr(report, "wasxfail")):
            ours = ci.of_judgements(row for row in self.session.collector.judgements() if row.finding.id == finding)
        # The report of the test's end, which JUnit's are made of, has those of the item.
        item.user_properties[:] = ci.replaced(item.user_properties, ours)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen = getattr(report, "kvbench", None)
        if seen is not None:
            ended = report.when == "call" or not report.passed
            self.session.collector.absorb(
                seen["configuration"] or seen["finding"], report.nodeid, report.outcome if ended else "", seen["record"]
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for name, tests in getattr(node, "workeroutput", {}).get(SELECTED, {}).items():
            for test in tests:
                self.session.collector.select(name, test)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-benchmark saves and pytest remembers failures
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        if self.started is not None and self.started.collector.selected:
            if self.worker:
                selected = {name: sorted(tests) for name, tests in self.started.collector.selected.items()}
                self.config.workeroutput[SELECTED] = selected  # type: ignore[attr-defined]
            elif not self.started.stopped:  # whoever stops a run does not want to wait for its tables
                with best_effort("remove the progress bar"):
                    self.started.progress.close()
                with self.config.stash[RESUMING].stops(session):
                    self.finish(self.started, session)
        return (yield)

    def finish(self, started: Session, session: pytest.Session) -> None:
        """Compare all that was trained; what failed only now is reported as a failed test, which pytest remembers."""
        from kvbench.harness.summary import summarize

        interrupted = self.interrupted or session.exitstatus not in {
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
        }
        result = started.collector.finish(tests_failed=session.testsfailed > 0, interrupted=interrupted)
        if result.fails and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        for test, check in started.collector.unreported().items():
            location = (test.partition("::")[0], None, test.partition("::")[2])
            self.config.hook.pytest_runtest_logreport(
                report=pytest.TestReport(test, location, {}, "failed", message(check, self.config), "call")
            )
        verbose = self.config.get_verbosity() > 0
        self.summary = summarize(started.collector, result, started.report_path, started.html_path, verbose=verbose)
        with best_effort("leave the verdicts for JUnit"):
            self.leave_verdicts(started)

    def leave_verdicts(self, started: Session) -> None:
        """Make properties of the test suite of all verdicts: with workers, tests of findings end first."""
        from kvbench.harness import ci

        outcome = (f"{ci.PREFIX}outcome", started.collector.outcome["outcome"])
        for plugin in self.config.pluginmanager.get_plugins():
            if add := getattr(plugin, "add_global_property", None):  # pytest's writer of JUnit files
                for name, text in (outcome, *ci.of_judgements(started.collector.judgements(), named=True)):
                    add(name, text)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_benchmark_generate_json(self, benchmarks: list[Any]) -> None:
        # Of what was stopped in its first epoch there are no seconds, which pytest-benchmark would stumble over.
        benchmarks[:] = [one for one in benchmarks if one or one.has_error]

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_benchmark_group_stats(self, benchmarks: list[dict[str, Any]]) -> list[Any] | None:
        """No table of 200 columns, where all of it is ours and nobody asked: the report has the seconds."""
        selected = self.started.collector.selected if self.started is not None else {}
        ours = set[str]().union(*selected.values())
        asked = self.config.get_verbosity() > 0 or any(
            self.config.getoption(name, default) != default for name, default in TIMINGS.items()
        )
        return None if asked or any(one["fullname"] not in ours for one in benchmarks) else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        if self.started is not None and self.started.collector.selected:
            output_json["kvbench"] = self.started.collector.save(output_json["benchmarks"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        result = self.started.collector.result if self.started is not None else None
        if self.started is not None and result is not None and not self.started.stopped:
            terminalreporter.section(f"kvbench: {self.started.title}")
            for line in self.summary:
                terminalreporter.line(line.text, **line.markup)
            for reason in result.reasons:
                failed = result.outcome is result.outcome.FAILED  # else it lists what was recorded
                terminalreporter.line(fold(plain(reason)) if failed else plain(reason), red=failed)
