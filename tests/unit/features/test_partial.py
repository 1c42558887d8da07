"""Banks whose pass was interrupted: gone on with bit by bit, or started over where they cannot be."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from kvbench.features.cache import open_bank
from kvbench.utils import environment as provenance
from kvbench.utils.progress import Progress
from tests.support.banks import CPU, ROWS, assert_equal, in_memory, left, passes, tiny_settings
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_shards")
COUNT = 600  # four shards of 128 rows and one of 88


def interrupted(folder: Path, after: int = 2 * ROWS) -> Path:
    """A bank whose pass was interrupted; returns where it will lie."""

    def stop(progress: Progress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    settings = tiny_settings(COUNT)
    with pytest.raises(KeyboardInterrupt):
        open_bank(settings, folder, "a", CPU, stop)
    assert sum(len(part._forward_hooks) for part in settings.teacher.module.modules()) == 0
    return settings.path(folder, "a")


def test_a_pass_that_fails_before_its_first_shard_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.features.shards.SHARD", 8 * ROWS)
    interrupted(tmp_path, 1)
    assert left(tmp_path) == []


def test_a_file_of_full_size_is_reserved_from_the_first_batch_on(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "a")
    partial = path.with_suffix(".partial").stat()
    whole = tiny_settings(COUNT).path(tmp_path / "b", "a")
    open_bank(tiny_settings(COUNT), tmp_path / "b", "a", CPU)
    assert partial.st_size == whole.stat().st_size
    assert partial.st_blocks * 512 >= partial.st_size


def resume(folder: Path, *, fresh: bool = False) -> tuple[list[str], int]:
    """Open the tiny bank; returns what was said and the number of passes, 5 of which make all of it."""
    settings = tiny_settings(COUNT)
    with logged() as messages:
        made = open_bank(settings, folder, "a", CPU, fresh=fresh)
    seen = passes(settings)
    assert_equal(made, in_memory(settings))
    assert left(folder) == [".safetensors"]
    return messages, seen


def test_fresh_starts_over(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert resume(tmp_path, fresh=True) == ([], 5)


def test_a_torn_journal_counts_to_its_last_whole_line(tmp_path: Path) -> None:
    journal = interrupted(tmp_path, 3 * ROWS).with_suffix(".journal")
    journal.write_bytes(journal.read_bytes()[:-1])
    assert resume(tmp_path) == (["a: resuming after 256 of 600 images."], 3)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "[2, " + "[" * 900 + "]" * 901, "[2, 3]", "[Infinity, 3]", "3", "[1e999]"]
)
def test_a_journal_counts_to_its_first_line_that_is_none(tmp_path: Path, line: str) -> None:
    journal = interrupted(tmp_path, 3 * ROWS).with_suffix(".journal")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:3], line, *lines[3:], ""]))
    assert resume(tmp_path) == (["a: resuming after 256 of 600 images."], 3)


def test_a_damaged_shard_of_an_unfinished_bank_is_made_again(tmp_path: Path) -> None:
    path = interrupted(tmp_path, 3 * ROWS).with_suffix(".partial")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - COUNT * 40)  # the first row of the last column
        file.write(b"hello")
    told, seen = resume(tmp_path)
    assert told[0] == "a: unfinished, shard 1 (images 1 to 128) of 5 damaged; computed again."
    assert told[1] == "a: resuming after 256 of 600 images."
    assert seen == 3


@pytest.mark.parametrize(
    "what", ["built_with", "fingerprint", "columns", "shape", "cut short", "no journal", "no file", "hello"]
)
def test_what_cannot_be_gone_on_with_is_started_over(what: str, tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    head, _, rest = journal.read_text().partition("\n")
    facts = json.loads(head)
    if what in facts:
        facts[what] = [["labels", "I64", [2**70]]] if what == "columns" else "another"
        journal.write_text(json.dumps(facts) + "\n" + rest)
    elif what == "shape":
        journal.write_text(json.dumps({**facts, "columns": [["labels", "I64", [math.inf]]]}) + "\n" + rest)
    elif what == "cut short":
        os.truncate(partial, partial.stat().st_size - 1)
    elif what == "hello":
        journal.write_text("hello")
    else:
        (journal if what == "no journal" else partial).unlink()
    told, seen = resume(tmp_path)
    assert told == ["a: what an interrupted pass left cannot be resumed here; starting over."]
    assert seen == 5


def test_a_pass_is_not_gone_on_with_where_numbers_are_rounded_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path)
    monkeypatch.setattr(provenance, "numerics", lambda: {"instructions": "another"})
    told, seen = resume(tmp_path)
    assert told == ["a: what an interrupted pass left cannot be resumed here; starting over."]
    assert seen == 5


def test_other_settings_do_not_go_on_with_it(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = tiny_settings(COUNT, precision="bfloat16")
    assert_equal(open_bank(other, tmp_path, "a", CPU), in_memory(other))
    assert left(tmp_path) == [".journal", ".partial", ".safetensors"]
    assert resume(tmp_path / "elsewhere")[1] == 5
