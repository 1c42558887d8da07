"""Drawn damage: bytes that are spoilt, JSON that is edited, and what a reader may answer to it.

Few examples, always the same; ``KVBENCH_TRIALS`` multiplies their number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from kvbench.utils.errors import UserError
from tests.support.trials import trials

fuzz = settings(
    max_examples=trials(25), derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
HOSTILE = "../../etc|`<b>[x](y)\x1b[31m\r\x07\u202e\u2066\ud800\x00"
odd: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", HOSTILE, "a" * 100_000, [], {}, [[]],
     {"a": [{}]}, "nan", "../x", "/etc", "C:\\x", "1_0", "\u0663"]
)  # fmt: skip
anything = st.recursive(odd | st.text() | st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3)
                        | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)  # fmt: skip
spoilt = st.lists(st.tuples(st.sampled_from(["flip", "cut", "double", "insert"]), st.floats(0, 1, exclude_max=True),
                            st.binary(max_size=4) | st.sampled_from([b"\x00", b"\r\n", b'"', b"\xff"])),
                  min_size=1, max_size=4)  # fmt: skip
edits = st.lists(st.tuples(st.sampled_from(["delete", "replace", "double"]), st.integers(0, 10**6), anything),
                 min_size=1, max_size=3)  # fmt: skip


def said(read: Callable[[], object]) -> object:
    """What a reader gives back, or the sentence that it says: one line, nothing unseen in it."""
    try:
        return read()
    except UserError as error:
        safe(error)
        assert "\n" not in str(error)  # noqa: PT017
        return None


def spoil(whole: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Flip, cut, double or insert bytes at places between 0 and 1."""
    for kind, place, extra in changes:
        at = int(place * len(whole))
        if kind == "flip" and whole:
            whole = whole[:at] + bytes([whole[at] ^ (1 << len(extra))]) + whole[at + 1 :]
        elif kind == "cut":
            whole = whole[:at]
        elif kind == "double":
            whole = whole[:at] + whole[at // 2 :]
        else:
            whole = whole[:at] + extra + whole[at:]
    return whole


def edited(value: Any, changes: list[tuple[str, int, Any]]) -> Any:
    """Delete, replace or double parts of a JSON value, wherever they are."""
    value = copy.deepcopy(value)
    for kind, place, other in changes:
        places: list[tuple[Any, Any]] = []
        todo = [value]
        while todo:
            inner = todo.pop()
            if isinstance(inner, (dict, list)):
                keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
                places += [(inner, key) for key in keys]
                todo += [inner[key] for key in keys]
        if not places:
            return other
        parent, key = places[place % len(places)]
        if kind == "delete":
            del parent[key]
        elif kind == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = other
    return value


def safe(told: object) -> None:
    """A report holds no character that a terminal would act on."""
    assert told is None or str(told).replace("\n", "").isprintable()
