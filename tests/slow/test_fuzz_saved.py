"""Saved runs of any content: read and reported, or refused in a sentence."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvbench.core.trainer import Training
from kvbench.harness.record import record
from kvbench.harness.setup import Banks
from kvbench.reference.store import load
from kvbench.reporting.contents import of_saved
from kvbench.reporting.html import page
from kvbench.results.saved import Saved, read
from kvbench.studies.kv_memory import STUDY
from tests.support import EXPECTED
from tests.support.fuzz import HOSTILE, anything, edited, edits, fuzz, safe, said, spoil, spoilt
from tests.support.pages import parse
from tests.support.saved_runs import benchmark, content
from tests.support.small import EXPERIMENT
from tests.support.trainer import config, random_bank


def recorded() -> Any:
    """The record of a training that went on where another left it, as it is saved."""
    banks = Banks(random_bank(), random_bank(40, seed=1), {"train": "0123"}, ("a note",))
    training = Training(config(epochs=2), banks.train, banks.val, [0])
    training.finish()
    training.reused = [1]
    training.notes = ["a note"]
    return json.loads(json.dumps(record(training, EXPERIMENT, banks, [0])))


RECORD = recorded() | {"workload": "fractals"}  # the other benchmarks'
ALONE = replace(STUDY.design, shipped="")  # whose runs have no reference of their own
REFERENCE = load(EXPECTED, "imagenet", STUDY.design)
RUN = content(benchmark("Model3"), benchmark("Model1", **RECORD), benchmark("lr_Model1"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strange")


@fuzz
@given(anything)
def test_any_json_as_a_saved_run(place: Path, value: Any) -> None:
    (place / "run.json").write_text(json.dumps(value))
    reported(place / "run.json")


@fuzz
@given(edits)
@example([("replace", 3, HOSTILE)])
def test_an_edited_saved_run(place: Path, changes: list[Any]) -> None:
    (place / "run.json").write_text(json.dumps(edited(RUN, changes)))
    reported(place / "run.json")


def reported(path: Path) -> None:
    """Report a saved run in markdown and as a page, or say in a sentence why not."""
    run = said(lambda: read(path))
    if isinstance(run, Saved):
        safe(of_saved(run, STUDY.design, path.parent).markdown())
        html = page(replace(of_saved(run, ALONE, path.parent), reference=REFERENCE))
        assert all(char.isprintable() or char == "\n" for char in html)
        root = parse(html)
        assert [len(root.all(name)) for name in ("script", "style", "img")] == [1, 1, 0]
        assert not any(name.startswith("on") for one in root.everything for name in one.attributes)


def test_what_is_edited_can_be_read(tmp_path: Path) -> None:
    for number, run in enumerate((RUN, content({"extra_info": {"kvbench": RECORD}}))):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(run))
        assert "Model1" in read(path).histories["configuration"].unique()
        reported(path)


def keys(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything lies in a JSON value; of a list's elements, the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*above, key)
        yield from keys(one, (*above, key))


@pytest.mark.parametrize("place_in_record", list(keys(RECORD)), ids=lambda place: ".".join(map(str, place)))
def test_a_record_without_a_key_or_with_an_odd_value_there(tmp_path: Path, place_in_record: tuple[Any, ...]) -> None:
    missing = object()
    for value in (missing, None, [], {}, "x", -1, 10**4299, float("nan"), [None], {"a": [{}]}):
        changed = copy.deepcopy(RECORD)
        *above, key = place_in_record
        parent = functools.reduce(lambda part, name: part[name], above, changed)
        if value is missing:
            del parent[key]
        else:
            parent[key] = value
        (tmp_path / "run.json").write_text(json.dumps(content({"extra_info": {"kvbench": changed}})))
        reported(tmp_path / "run.json")


@fuzz
@given(st.binary() | spoilt.map(lambda changes: spoil(json.dumps(RUN).encode(), changes)))
@example(b"[" * 100_000)
@example(json.dumps(RUN).encode("utf-16"))
def test_a_saved_run_of_any_bytes(place: Path, whole: bytes) -> None:
    (place / "run.json").write_bytes(whole)
    reported(place / "run.json")
