"""Runs that are killed, damaged or short of room, and given again: the quick form of benchmarks/reliability."""

from __future__ import annotations

from benchmarks.reliability import damages, interruptions
from benchmarks.reliability.__main__ import FAULTS, page
from benchmarks.reliability.laboratory import Laboratory, Result


def survived(result: Result, tries: int) -> None:
    assert result.lost == []
    assert (result.tries, result.survived) == (tries, tries)


def test_fifteen_kills_at_random_moments_lose_nothing(laboratory: Laboratory) -> None:
    result = interruptions.kills(laboratory, 15)
    survived(result, 15)
    assert sum(result.where.values()) == 15


def test_a_kill_between_acts_on_files_loses_nothing(laboratory: Laboratory) -> None:
    survived(interruptions.kills_at_files(laboratory, 2), 2)


def test_signals_are_followed_with_their_exit_codes(laboratory: Laboratory) -> None:
    survived(interruptions.signals(laboratory, 2), 2)


def test_flipped_bits_and_short_files_lose_nothing(laboratory: Laboratory) -> None:
    survived(damages.flipped_bits(laboratory, 2), 2)
    survived(damages.truncated(laboratory, 1), 1)


def test_short_reads_and_writes_lose_nothing(laboratory: Laboratory) -> None:
    survived(damages.short_calls(laboratory, 1), 1)


def test_other_tables_after_a_fault_are_told_as_lost(laboratory: Laboratory) -> None:
    result = Result("a fault", tries=1)
    histories = laboratory.project.folder / "benchmarks" / "conftest.py"
    # What a wrong resume would do: another number in a history.
    histories.write_text(
        "from kvbench.core import trainer\n"
        "real = trainer.Run.evaluation\n"
        "def evaluation(self):\n"
        "    yield from real(self)\n"
        "    self.history[-1]['train_loss'] += 1e-6\n"
        "trainer.Run.evaluation = evaluation\n"
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
    assert len(FAULTS) == 11
