"""Parts of a run in processes of their own, as a job array starts them: what they leave is what one process leaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobs import ALL, PATIENCE, Jobs, content_of, ends


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(tmp_path) as made:
        yield made


def test_parts_at_once_in_any_order_twice_and_one_killed_leave_what_one_process_does(jobs: Jobs) -> None:
    plain = jobs.session("plain")
    assert len(jobs.epochs) == ALL

    extracting = [jobs.kvbench("extract", "--cache", "cut", "--part", part) for part in ("2/2", "1/2")]
    told = "".join(map(ends, extracting))
    assert told.count("train: 2 of 4 part files are done, in cut/tiny-train-") == 2
    for split in ("train", "val"):
        (one,), (other,) = (list((jobs.path / cache).glob(f"tiny-{split}-*")) for cache in ("plain", "cut"))
        assert content_of(one) == content_of(other), "byte for byte"

    training = [("3/3", -1), ("1/3", 9), ("2/3", -1)]
    first = [jobs.kvbench("train", "--cache", "cut", "--part", part, after=after) for part, after in training]
    ends(first[0])
    first[1].communicate(timeout=PATIENCE)
    ends(first[2])
    assert first[1].returncode == -signal.SIGKILL
    trained = jobs.epochs
    assert len(trained) == len({*trained}), "no two parts train the same"
    again = [jobs.kvbench("train", "--cache", "cut", "--part", part) for part in ("1/3", "3/3")]
    told = "".join(map(ends, again))
    assert "tiny: part 3 of 3 is done, 9 trainings of a seed: 0 trained, 9 found, in " in told
    went_on = jobs.epochs
    assert len({*trained, *went_on}) == ALL
    assert len(trained) + len(went_on) <= ALL + 1, "but for the epoch that it was killed in"

    assert jobs.session("cut") == plain
    assert jobs.epochs == [], "a session trains nothing"
    assert jobs.tables("cut") == jobs.tables("plain")
    saved = [json.loads((jobs.path / f"{cache}.json").read_text())["kvbench"]["reasons"] for cache in ("plain", "cut")]
    assert saved[0] == saved[1]
