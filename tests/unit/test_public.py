"""The public surface: what ``import kvbench`` offers, where it comes from, and that it is light."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kvbench
from tests.support import ROOT


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


def _home(name: str) -> tuple[Any, str]:
    """The module in which a public name is defined, and its name there."""
    module, _, attribute = kvbench._HOMES[name].partition(":")
    return importlib.import_module(f"kvbench.{module}"), attribute


TABLES = {name for name in kvbench.__all__ if isinstance(getattr(kvbench, name), dict)}


@pytest.mark.parametrize("name", sorted({*kvbench.__all__} - TABLES))
def test_a_public_name_has_an_example_that_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for table in TABLES:
        monkeypatch.setattr(*_home(table), dict(getattr(kvbench, table)))
    text = inspect.getdoc(getattr(kvbench, name)) or ""
    assert re.search(r"^Examples?:$", text, flags=re.MULTILINE), "its docstring has no Example section"
    names = {public: getattr(kvbench, public) for public in kvbench.__all__}
    examples = doctest.DocTestParser().get_doctest(text, {**names, "Path": Path, "torch": torch}, name, None, None)
    assert examples.examples
    printed: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=printed.append)
    assert result.failed == 0, "".join(printed)
