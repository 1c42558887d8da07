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
STOPPED = {signal.SIGINT: ("Ctrl-C", pytest.ExitCode.INTERRUPTED), signal.SIGTERM: ("SIGTERM", SIGTERM_CODE)}


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
        self._open = contextlib.ExitStack()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if "kvbench_training" in getattr(item, "fixturenames", ()):
                self.selected.add(item.nodeid)

    def listen(self) -> None:
        """From now on SIGTERM and Ctrl-C end the session in order."""

        def end(number: signal.Signals) -> NoReturn:
            reason, code = STOPPED[number]
            pytest.exit(reason, returncode=code)

        # Ctrl-C of a worker is its master's affair, and whoever asked for a debugger has it at Ctrl-C.
        theirs = hasattr(self.config, "workerinput") or self.config.getoption("usepdb")
        self._open.enter_context(on_signals(end, signal.SIGTERM, *([] if theirs else [signal.SIGINT])))

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
        session = self.started()
        if session is None:
            return
        # Pytest and others end sessions in this way, too: with a message, or after what broke a collection.
        ours = not isinstance(excinfo.value, pytest.Session.Interrupted)
        reason = getattr(excinfo.value, "msg", "Ctrl-C" if ours else "")
        session.stopped = reason if reason in [known for known, _ in STOPPED.values()] else ""
        if session.stopped:  # half a second: pytest reads every frame's source for what it does not show
            excinfo.traceback = excinfo.traceback[-3:]

    @contextlib.contextmanager
    def stops(self, session: pytest.Session) -> Iterator[None]:
        """A block that a signal ends without ending what comes after it."""
        try:
            yield
        except pytest.exit.Exception as stop:
            started = self.started()
            if started is not None:
                started.stopped = str(stop.msg)
            session.exitstatus = stop.returncode or pytest.ExitCode.INTERRUPTED

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        session = self.started()
        suite = session.opened_suite if session is not None else None
        self.states |= {*suite.kept} if suite is not None else set()
        if hasattr(self.config, "workeroutput"):
            directories = [str(directory) for directory in self.states]
            self.config.workeroutput["kvbench"] = {"selected": sorted(self.selected), "states": directories}
            return (yield)
        stopped = session.stopped if session is not None else ""
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
