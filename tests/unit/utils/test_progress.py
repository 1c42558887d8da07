"""Progress on a terminal, and its silence elsewhere."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from kvbench.utils.logs import log_warnings, show_logs
from kvbench.utils.progress import Progress, ProgressBar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_draws_below_the_cursor_and_brings_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = ProgressBar()
    progress.show(Progress("Model1 seed 0 epoch 1/10", 1, 10, "epoch"))
    assert progress.bar is not None
    progress.bar.refresh()
    drawn = screen.getvalue()
    assert "Model1 seed 0 epoch 1/10" in drawn
    assert "1/10 [" in drawn  # done, of how many, with the time left
    # Saving and restoring the cursor surround every line: pytest's own line of dots stays whole.
    assert drawn.count("\x1b7") == drawn.count("\x1b8") > 0
    assert "\n" not in drawn


def test_the_clock_goes_on_when_the_bar_made_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    progress = ProgressBar()
    progress.show(Progress("Model1", 1, 10, "epoch"))
    first = progress.bar
    progress.clear()
    progress.show(Progress("Model2", 2, 10, "epoch"))
    assert progress.bar is first
    progress.show(Progress("teacher pass", 1, 10, "image"))
    assert progress.bar is not first


def test_a_quiet_bar_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = ProgressBar(quiet=True)
    progress.show(Progress("Model1", 1, 10, "epoch"))
    progress.close()
    assert screen.getvalue() == ""


def test_elsewhere_it_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    progress = ProgressBar()
    for done in range(1, 11):
        progress.show(Progress("Model1", done, 10, "epoch"))
    progress.clear()
    progress.close()
    assert quiet.getvalue() == ""


def test_it_writes_only_while_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, screen = io.StringIO(), Screen()
    monkeypatch.setattr(sys, "stderr", captured)

    @contextlib.contextmanager
    def uncaptured() -> Iterator[None]:
        sys.stderr = screen
        try:
            yield
        finally:
            sys.stderr = captured

    progress = ProgressBar(uncaptured)
    progress.show(Progress("teacher pass", 3, 10, "image"))
    progress.close()
    assert "teacher pass" in screen.getvalue()
    assert captured.getvalue() == ""


@pytest.mark.parametrize("screen", [Screen(), io.StringIO()])
def test_a_sentence_is_printed_on_a_terminal_or_not_while_nothing_is_captured(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = io.StringIO()
    monkeypatch.setattr(sys, "stderr", captured)

    @contextlib.contextmanager
    def uncaptured() -> Iterator[None]:
        with contextlib.redirect_stderr(screen):
            yield

    progress = ProgressBar(uncaptured)
    progress.show(Progress("teacher pass", 3, 10, "image"))
    progress.print("going on after 4,096 of 8,192 images.")
    progress.show(Progress("teacher pass", 4, 10, "image"))
    assert "\ngoing on after 4,096 of 8,192 images.\n" in screen.getvalue(), "below pytest's dots"
    progress.close()
    assert captured.getvalue() == ""


def test_a_sentence_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar().print("waiting.")
    assert capsys.readouterr().err == "waiting.\n"


def test_text_from_outside_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = ProgressBar()
    progress.show(Progress("Model\x1b[2J\n1", 1, 10, "epoch"))
    with show_logs(progress):
        logging.getLogger("kvbench.any").info("made on %s", "host\x1b]0;evil\x07\n  since then")
    assert r"Model\x1b[2J\n1" in screen.getvalue()
    assert screen.getvalue().endswith("made on host\\x1b]0;evil\\x07\n  since then\n"), "lines stay"


@pytest.mark.parametrize(("verbosity", "expected"), [(-1, "Warning: c"), (0, "b\nWarning: c"), (1, "a\nb\nWarning: c")])
def test_how_much_is_shown_depends_on_the_verbosity(
    verbosity: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("kvbench.any")
    with show_logs(ProgressBar(), verbosity):
        logger.debug("a")
        logger.info("b")
        logger.warning("%s", "c")
    logger.error("after the block there is no handler of ours")
    assert capsys.readouterr().err == f"{expected}\n"
    assert logging.getLogger("kvbench").handlers == []


def test_a_warning_is_logged_once_and_without_source_code(capsys: pytest.CaptureFixture[str]) -> None:
    with show_logs(ProgressBar()), log_warnings():
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("the weights\x07 are old", UserWarning, stacklevel=1)
        warnings.warn("so is this", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == (
        "Warning: the weights\\x07 are old (UserWarning)\nWarning: so is this (FutureWarning)\n"
    )
