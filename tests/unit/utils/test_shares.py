"""Shares of work."""

from __future__ import annotations

import pytest

from kvbench.utils.errors import UserError
from kvbench.utils.shares import Share


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_all_shares_together_are_the_work_each_task_once(count: int) -> None:
    shares = [Share.parse(f"{number}/{count}").of(range(10)) for number in range(1, count + 1)]
    assert sorted(task for share in shares for task in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "a/b", "1/", "/2", "-1/3", "1/0", "1.0/2", "1/2/3", "²/3", "1" * 20]
)
def test_what_is_no_part_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"^Cannot read the part .*: give I/N, the I-th of N shares of the work, such"):
        Share.parse(text)
