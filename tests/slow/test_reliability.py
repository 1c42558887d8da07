"""Runs that are killed, damaged or short of room, and given again: the quick form of benchmarks/reliability."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.reliability import damages, interruptions
from benchmarks.reliability.__main__ import FAULTS, page
from benchmarks.reliability.laboratory import Laboratory, Result
from tests.support.trials import trials


@pytest.mark.parametrize(
    ("fault", "usual"),
    [
        (interruptions.kills, 15),
        (interruptions.kills_at_files, 2),
        (interruptions.signals, 2),
        (damages.flipped_bits, 2),
        (damages.truncated, 1),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_lost(fault: Callable[[Laboratory, int], Result], usual: int, laboratory: Laboratory) -> None:
    tries = trials(usual)
    result = fault(laboratory, tries)
    assert result.lost == []
    assert (result.tries, result.survived) == (tries, tries)


def test_other_tables_after_a_fault_are_told_as_lost(laboratory: Laboratory) -> None:
    result = Result("a fault", tries=1)
    histories = laboratory.project.folder / "benchmarks" / "conftest.py"
    # What a wrong resume would do: another number in a history.
    histories.write_text(
        "from kvbench.core.run import Run\n"
        "real = Run.evaluation\n"
        "def evaluation(self):\n"
        "    yield from real(self)\n"
        "    self.history[-1]['train_loss'] += 1e-6\n"
        "Run.evaluation = evaluation\n"
    )
    try:
        laboratory.settle(result, 1, "a test")
    finally:
        histories.unlink()
    assert result.survived == 0
    assert "a test: other tables" in result.lost[0]


def test_the_page_has_a_row_a_fault_and_says_what_was_lost() -> None:
    good = Result("kills", 3, 3)
    bad = Result("bits", 2, 1, lost=["bank | cut: no tables"])
    text = page([good, bad], "python -m benchmarks.reliability")
    assert "| kills" in text
    assert "- bits: bank \\| cut: no tables" in text
    assert len(FAULTS) == 10
