"""Banks, whole or of an interrupted pass, with any damage: opened as they were made, or refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvbench.core.bank import FeatureBank
from kvbench.features.store import BLANK
from kvbench.utils.files import MANIFEST
from tests.support.banks import CPU, assert_equal, in_memory, open_bank, sealed, tiny_settings
from tests.support.fuzz import anything, edited, edits, fuzz, safe, said, spoil, spoilt
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_parts")
COUNT = 300  # two parts of 128 rows and one of 44
Files = dict[str, tuple[bytes, int]]  # contents and times of change, by name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A healthy bank's files. Its parts are small ones: the fixture that makes them so is younger."""
    folder = tmp_path_factory.mktemp("healthy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvbench.features.store.ROWS", 128)
        open_bank(tiny_settings(COUNT), folder, "a", CPU)
    files = tiny_settings(COUNT).path(folder, "a").iterdir()
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def expected() -> FeatureBank:
    return in_memory(tiny_settings(COUNT))


def opened(folder: Path, files: Files) -> FeatureBank | None:
    bank = tiny_settings(COUNT).path(folder, "a")
    bank.mkdir()
    for name, (content, changed) in files.items():
        (bank / name).write_bytes(content)
        os.utime(bank / name, ns=(changed, changed))
    with logged() as messages:
        found = said(lambda: open_bank(tiny_settings(COUNT), folder, "a", CPU))
    for text in messages:
        safe(text)
    assert found is None or isinstance(found, FeatureBank)
    return found


@fuzz
@given(st.integers(0, 2), st.booleans(), spoilt)
@example(0, True, [("flip", 0.0, b"")])
@example(0, False, [("cut", 0.0, b"")])
@example(2, True, [("insert", 0.0, b"\xff\xff\xff\xff")])
def test_a_bank_with_a_spoilt_part_opens_as_it_was_made(
    tmp_path_factory: pytest.TempPathFactory,
    whole: Files,
    expected: FeatureBank,
    part: int,
    finished: bool,
    changes: list[Any],
) -> None:
    name = f"part-{part:05d}.safetensors"
    files = {**whole, name: (spoil(whole[name][0], changes), 1)}
    found = opened(tmp_path_factory.mktemp("spoilt"), files if finished else dict(list(files.items())[:2]))
    assert found is not None
    assert_equal(found, expected)


def forged(part: bytes, changes: list[Any], inner: bool) -> bytes:
    """Another header that has the checksum which fits, as a stranger could make it."""
    length = int.from_bytes(part[:8], "little")
    described = json.loads(part[8 : 8 + length])
    about = json.loads(described["__metadata__"]["kvbench"])
    if inner:
        about = edited(about, changes)
    if isinstance(about, dict) and "sha256" in about:
        about["sha256"] = BLANK
    described["__metadata__"]["kvbench"] = json.dumps(about, sort_keys=True)
    text = json.dumps(described if inner else edited(described, changes), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    made = len(text).to_bytes(8, "little") + text + part[8 + length :]
    return made.replace(BLANK.encode(), hashlib.sha256(made).hexdigest().encode(), 1)


@fuzz
@given(edits, st.booleans())
@example([("replace", 3, [2**62, 2**62])], False)
def test_a_forged_header_is_no_trap(
    tmp_path_factory: pytest.TempPathFactory, whole: Files, changes: list[Any], inner: bool
) -> None:
    name = "part-00001.safetensors"
    assert forged(whole[name][0], [], inner) == whole[name][0]
    found = opened(tmp_path_factory.mktemp("forged"), {**whole, name: (forged(whole[name][0], changes, inner), 1)})
    assert found is None or len(found) == COUNT


@fuzz
@given(spoilt)
@example([("cut", 0.0, b"")])
def test_a_spoilt_manifest_takes_nothing_away(
    tmp_path_factory: pytest.TempPathFactory, whole: Files, expected: FeatureBank, changes: list[Any]
) -> None:
    files = {**whole, MANIFEST: (spoil(whole[MANIFEST][0], changes), 1)}
    found = opened(tmp_path_factory.mktemp("manifest"), files)
    assert found is not None
    assert_equal(found, expected)


@fuzz
@given(edits | st.just([]), anything)
def test_a_forged_manifest_is_no_trap(
    tmp_path_factory: pytest.TempPathFactory, whole: Files, expected: FeatureBank, changes: list[Any], other: Any
) -> None:
    facts = edited(json.loads(whole[MANIFEST][0]), changes) if changes else other
    text = sealed(facts) if isinstance(facts, dict) else json.dumps(facts)
    found = opened(tmp_path_factory.mktemp("manifest"), {**whole, MANIFEST: (text.encode(), 1)})
    assert found is not None
    assert_equal(found, expected)
