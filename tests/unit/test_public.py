"""The public surface: what ``import kvbench`` offers, where it comes from, and that it is light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvbench


def test_every_public_name_is_there_and_listed() -> None:
    assert {*kvbench.__all__} <= {*dir(kvbench)}
    for name in kvbench.__all__:
        assert getattr(kvbench, name) is not None


def test_type_checkers_see_what_is_imported() -> None:
    tree = ast.parse(Path(kvbench.__file__).read_text())
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvbench."):
            for alias in node.names:
                seen[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    homes = {name: "kvbench." + home.replace(":", ".") for name, home in kvbench._HOMES.items()}
    assert seen == {name: home.rstrip(".") for name, home in homes.items()}
    assert sorted(seen) == sorted(kvbench.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kvbench' has no attribute 'Modle1'"):
        _ = kvbench.Modle1
