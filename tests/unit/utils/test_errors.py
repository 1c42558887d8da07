"""Errors as sentences, whatever the error is."""

from __future__ import annotations

import pytest

from kvbench.utils.errors import best_effort, describe


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_that_cannot_be_shown_is_named_by_its_type(caplog: pytest.LogCaptureFixture) -> None:
    assert describe(MuteError()) == "MuteError"
    with best_effort("look"):
        raise MuteError
    assert caplog.messages == ["Could not look: MuteError"]


def test_an_error_is_described_by_its_first_line() -> None:
    assert describe(ValueError("one.\ntwo")) == "ValueError: one"
