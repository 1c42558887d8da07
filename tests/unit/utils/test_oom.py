"""Memory that runs out is told in a sentence; other errors stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvbench.utils.errors import UserError
from kvbench.utils.oom import enough_memory


def test_the_cpus_allocator() -> None:
    match = r"^There is not enough memory for a test \(.*\)\. Buy some\.$"
    with pytest.raises(UserError, match=match) as told, enough_memory("a test", "Buy some."):
        torch.empty(2**60)
    assert "\n" not in str(told.value)


def test_a_file_that_finds_no_room_to_be_mapped(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**43)  # takes no room on the disk
    match = r"not enough memory for a test \(.*\)\. Buy some\.$"
    with pytest.raises(UserError, match=match), enough_memory("a test", "Buy some."):
        torch.from_file(str(tmp_path / "large"), shared=False, size=2**41)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")]
)
def test_an_accelerator_and_python(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"not enough memory for a test.*\. Buy some\.$"),
        enough_memory("a test", "Buy some."),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ZeroDivisionError(), UserError("a sentence")])
def test_everything_else_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as told, enough_memory("a test", "Buy some."):
        raise error
    assert told.value is error


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            r"ended unexpectedly \(signal: Killed\): most often",
        ),
        ("DataLoader worker (pid(s) 7, 9) exited unexpectedly", "ended unexpectedly: most often"),
    ],
)
def test_a_reading_process_that_was_killed_is_a_sentence(text: str, sentence: str) -> None:
    with (
        pytest.raises(UserError, match=f"^A process that reads images {sentence}"),
        enough_memory("a test", "Buy some."),
    ):
        raise RuntimeError(text)
