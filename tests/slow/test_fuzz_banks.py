"""Banks, and what an interrupted pass left, with any damage: opened as they were made, or refused in a sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvbench.core.bank import FeatureBank
from kvbench.features.cache import open_bank
from kvbench.features.partial import paths
from kvbench.features.shards import ALIGNMENT
from kvbench.utils.progress import Progress
from tests.support.banks import CPU, assert_equal, in_memory, tiny_settings
from tests.support.fuzz import edited, edits, fuzz, safe, said, spoil, spoilt
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_shards")
COUNT = 300  # two shards of 128 rows and one of 44


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A healthy bank's file. Its shards are small ones: the fixture that makes them so is younger."""
    folder = tmp_path_factory.mktemp("healthy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvbench.features.shards.SHARD", 128)
        open_bank(tiny_settings(COUNT), folder, "a", CPU)
    return tiny_settings(COUNT).path(folder, "a").read_bytes()


@pytest.fixture(scope="module")
def expected() -> FeatureBank:
    return in_memory(tiny_settings(COUNT))


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The file and the journal of a pass that was interrupted after its second shard."""
    folder = tmp_path_factory.mktemp("halted")

    def stop(progress: Progress) -> None:
        if progress.done >= 256:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvbench.features.shards.SHARD", 128)
        with pytest.raises(KeyboardInterrupt):
            open_bank(tiny_settings(COUNT), folder, "a", CPU, stop)
    partial, journal = paths(tiny_settings(COUNT).path(folder, "a"))
    return partial.read_bytes(), journal.read_bytes()


def opened(folder: Path) -> FeatureBank | None:
    with logged() as messages:
        found = said(lambda: open_bank(tiny_settings(COUNT), folder, "a", CPU))
    for text in messages:
        safe(text)
    assert found is None or isinstance(found, FeatureBank)
    return found


@fuzz
@given(spoilt)
@example([("flip", 0.0, b"")])
@example([("cut", 0.0, b"")])
@example([("insert", 0.0, b"\xff\xff\xff\xff")])
def test_a_bank_of_spoilt_bytes_opens_as_it_was_made(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, expected: FeatureBank, changes: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("spoilt")
    tiny_settings(COUNT).path(folder, "a").write_bytes(spoil(whole, changes))
    found = opened(folder)
    assert found is not None
    assert_equal(found, expected)


def forged(whole: bytes, changes: list[Any]) -> bytes:
    """Another header that has the checksum which fits, as a stranger could make it."""
    length = int.from_bytes(whole[:8], "little")
    described = edited(json.loads(whole[8 : 8 + length]), changes)
    if isinstance(described, dict) and isinstance(described.get("__metadata__"), dict):
        facts = {key: described["__metadata__"].get(key) for key in ("fingerprint", "built_with", "shards")}
        columns = {name: value for name, value in described.items() if name != "__metadata__"}
        own = hashlib.sha256(json.dumps([facts, columns]).encode()).hexdigest()
        described = {"__metadata__": {**facts, "header": own}, **columns}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


@fuzz
@given(edits)
@example([("replace", 3, [2**62, 2**62])])
def test_a_forged_header_is_no_trap(tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("forged")
    assert forged(whole, []) == whole
    tiny_settings(COUNT).path(folder, "a").write_bytes(forged(whole, changes))
    found = opened(folder)
    assert found is None or len(found) == COUNT


@fuzz
@given(st.sampled_from(["partial", "journal"]), spoilt)
@example("journal", [("cut", 0.99, b"")])
@example("journal", [("double", 0.9, b"")])
def test_what_an_interrupted_pass_left_is_gone_on_with_whatever_befell_it(
    tmp_path_factory: pytest.TempPathFactory,
    halted: tuple[bytes, bytes],
    expected: FeatureBank,
    which: str,
    changes: list[Any],
) -> None:
    folder = tmp_path_factory.mktemp("halted")
    partial, journal = paths(tiny_settings(COUNT).path(folder, "a"))
    partial.write_bytes(spoil(halted[0], changes if which == "partial" else []))
    journal.write_bytes(spoil(halted[1], changes if which == "journal" else []))
    found = opened(folder)
    assert found is not None
    assert_equal(found, expected)


@fuzz
@given(st.lists(st.from_type(int) | st.text() | st.none() | st.lists(st.integers(), max_size=3), max_size=4))
def test_any_journal(
    tmp_path_factory: pytest.TempPathFactory, halted: tuple[bytes, bytes], expected: FeatureBank, lines: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    partial, journal = paths(tiny_settings(COUNT).path(folder, "a"))
    partial.write_bytes(halted[0])
    head = halted[1].splitlines(keepends=True)[0]
    journal.write_bytes(head + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    found = opened(folder)
    assert found is not None
    assert_equal(found, expected)
