"""Commands that are stopped from outside end in order, with the code that shells expect."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NoReturn

import pytest

from kvbench.utils.signals import DEFAULTS, ECHO, on_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


class Ended(BaseException):
    """What the end raises here."""


@pytest.fixture
def as_python_starts() -> Iterator[None]:
    """Both signals handled as in a new process; pytest and tools around it set handlers of their own."""
    before = {number: signal.signal(number, handler) for number, handler in DEFAULTS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end(number: signal.Signals) -> NoReturn:
    raise Ended(number.name)


@pytest.mark.usefixtures("as_python_starts")
@pytest.mark.parametrize("number", DEFAULTS)
def test_the_handler_is_there_inside_the_block_alone(number: signal.Signals) -> None:
    with pytest.raises(Ended, match=number.name), on_signals(end, *DEFAULTS):
        signal.raise_signal(number)
    assert signal.getsignal(number) == DEFAULTS[number]
    signal.signal(number, signal.SIG_IGN)
    with on_signals(end, *DEFAULTS):
        signal.raise_signal(number)  # whose handler is set keeps it: nohup, say
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.usefixtures("as_python_starts")
def test_signals_that_were_not_named_stay_as_they_are() -> None:
    with on_signals(end, signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.usefixtures("as_python_starts")
def test_echoes_of_a_signal_are_ignored_and_a_later_one_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("kvbench.utils.signals.time", SimpleNamespace(monotonic=lambda: now[0]))
    with on_signals(end, *DEFAULTS):
        with pytest.raises(Ended, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
        now[0] += 0.9 * ECHO
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        now[0] += 0.2 * ECHO
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("as_python_starts")
def test_in_other_threads_nothing_is_done() -> None:
    seen: list[object] = []

    def work() -> None:
        with on_signals(end, *DEFAULTS):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
