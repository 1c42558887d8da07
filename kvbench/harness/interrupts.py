"""The part of the pytest plugin that ends a session in order and lets an interrupted one go on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from kvbench.harness.options import FRESH
from kvbench.utils.signals import SIGTERM_CODE, on_signals
from kvbench.utils.text import plain

if TYPE_CHECKING:
    from kvbench.harness.session import Session

# The reason of a session's end by a signal, and its exit code: pytest's own for Ctrl-C, else as shells have it.
REASONS = {signal.SIGINT: ("Ctrl-C", pytest.ExitCode.INTERRUPTED), signal.SIGTERM: ("SIGTERM", SIGTERM_CODE)}


class Stopped(KeyboardInterrupt):
    """A signal ends the session; no `Exception`, so that nobody takes it for a fault of the code that it struck."""

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.code = code


class Resuming:
    """Hooks that keep the states of unfinished trainings until every collected one has come to its end.

    Args:
        config: pytest's.
        started: gives the session, or None before anything needed one.
    """

    def __init__(self, config: pytest.Config, started: Callable[[], Session | None]):
        self.config, self.started = config, started
        self.selected: set[str] = set()  # tests that train, in this process or in workers
        self.ended: set[str] = set()  # those whose trainings came to their end
        self.states: set[Path] = set()  # directories of states, this process's and its workers'
        self.unfinished = ""  # the summary's line about states that stay
        self.exit_code: int | None = None  # of a session that a signal ended
        self.saving = False  # the session ended; what raises now is past what pytest takes for an interruption
        self._open = contextlib.ExitStack()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if "kvbench_training" in getattr(item, "fixturenames", ()):
                self.selected.add(item.nodeid)

    def listen(self) -> None:
        """From now on SIGTERM and Ctrl-C end the session in order."""

        def end(number: signal.Signals) -> NoReturn:
            reason, code = REASONS[number]
            if self.saving:
                pytest.exit(reason, returncode=code)
            raise Stopped(reason, code)

        if self.config.getoption("usepdb"):  # whoever asked for a debugger has it, not our end, at Ctrl-C
            return
        worker = hasattr(self.config, "workerinput")  # Ctrl-C is its master's affair
        self._open.enter_context(on_signals(end, signal.SIGTERM, *([] if worker else [signal.SIGINT])))

    def write_line(self, text: str) -> None:
        """Write a line among pytest's own; in a worker, which has no terminal, nothing."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            with uncaptured(self.config):
                reporter.ensure_newline()
                reporter.write_line(plain(f"kvbench: {text}"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen: dict[str, Any] = getattr(report, "kvbench", {})
        if not seen.get("configuration"):
            return
        from kvbench.harness.record import complete

        record = seen["record"]
        untrained = not record and (report.when == "call" or report.outcome == "skipped")
        if untrained or (record and (complete(record) or record["diverged"])):
            self.ended.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {}).get("kvbench", {})
        self.selected |= {*output.get("selected", ())}
        self.states |= {Path(directory) for directory in output.get("states", ())}

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        session, stop = self.started(), excinfo.value
        # Pytest and its plugins end sessions with subclasses, too, after a first failure, say.
        if session is not None and (isinstance(stop, Stopped) or type(stop) is KeyboardInterrupt):
            session.stopped = str(stop) or "Ctrl-C"
            self.exit_code = getattr(stop, "code", None)
            # Half a second otherwise: pytest reads every frame's source for what it does not show.
            excinfo.traceback = excinfo.traceback[-3:]

    @contextlib.contextmanager
    def stops(self, session: pytest.Session) -> Iterator[None]:
        """A block that a signal ends without ending what comes after it."""
        try:
            yield
        except Stopped as stop:
            started = self.started()
            if started is not None:
                started.stopped = str(stop)
            session.exitstatus = stop.code

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        self.saving = True
        session.exitstatus = session.exitstatus if self.exit_code is None else self.exit_code
        started = self.started()
        suite = started.opened_suite if started is not None else None
        self.states |= {*suite.kept} if suite is not None else set()
        if hasattr(self.config, "workeroutput"):
            directories = [str(directory) for directory in self.states]
            self.config.workeroutput["kvbench"] = {"selected": sorted(self.selected), "states": directories}
            return (yield)
        stopped = started.stopped if started is not None else ""
        count = f"{len(self.states)} training{'s' if len(self.states) > 1 else ''}"
        resume = f"the same command goes on with what {count} left"
        then = resume if self.states else "nothing was kept, the same command starts over"
        if stopped:
            self.write_line(f"stopped by {stopped}; {then}.")
        if stopped or not self.selected or not self.selected <= self.ended:
            if self.states and not stopped:
                self.unfinished = f"UNFINISHED: {resume}, or anew with {FRESH}."
            return (yield)
        try:
            result = yield  # the run is saved first
        except pytest.exit.Exception as stop:
            self.write_line(f"stopped by {stop.msg}; {then}.")
            raise
        if self.states:
            from kvbench.harness.resume import clear

            clear(self.states)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unfinished:
            terminalreporter.line(self.unfinished)

    def pytest_unconfigure(self) -> None:
        self._open.close()


def uncaptured(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """A block whose output reaches the terminal, also where pytest would show a failing test's only."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
