"""Progress on a terminal, and its silence elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

import pytest

from kvbench.utils.progress import Progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_draws_below_the_cursor_and_brings_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(contextlib.nullcontext)
    progress.show("epoch", "Model1 seed 0 epoch 1/10", 1, 10)
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
    progress = Progress(contextlib.nullcontext)
    progress.show("epoch", "Model1", 1, 10)
    first = progress.bar
    progress.clear()
    progress.show("epoch", "Model2", 2, 10)
    assert progress.bar is first
    progress.show("image", "teacher pass", 1, 10)
    assert progress.bar is not first


def test_elsewhere_it_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    progress = Progress(contextlib.nullcontext)
    for done in range(1, 11):
        progress.show("epoch", "Model1", done, 10)
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

    progress = Progress(uncaptured)
    progress.show("image", "teacher pass", 3, 10)
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

    progress = Progress(uncaptured)
    progress.show("image", "teacher pass", 3, 10)
    progress.say("going on after 4,096 of 8,192 images.")
    progress.show("image", "teacher pass", 4, 10)
    assert "\ngoing on after 4,096 of 8,192 images.\n" in screen.getvalue(), "below pytest's dots"
    progress.close()
    assert captured.getvalue() == ""


def test_a_sentence_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(contextlib.nullcontext).say("waiting.")
    assert capsys.readouterr().err == "waiting.\n"


def test_text_from_outside_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(contextlib.nullcontext)
    progress.show("epoch", "Model\x1b[2J\n1", 1, 10)
    progress.say("made on host\x1b]0;evil\x07\n  since then")
    assert r"Model\x1b[2J\n1" in screen.getvalue()
    assert screen.getvalue().endswith("made on host\\x1b]0;evil\\x07\n  since then\n"), "lines stay"
