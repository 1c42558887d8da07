"""The registry of studies: built in, of installed packages, of a project."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from kvbench.studies import registry
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError

MINE, OTHER = replace(STUDY, name="mine", folder=None), replace(STUDY, name="other", folder=None)


def test_the_one_study_of_a_project_is_its_default() -> None:
    assert registry.find("") is STUDY
    assert registry.find("", [MINE]) is MINE
    assert registry.find("kv-memory", [MINE]) is STUDY
    assert registry.find("mine", [MINE, OTHER]) is MINE


@pytest.mark.parametrize(
    ("name", "project", "sentence"),
    [
        ("", [MINE, OTHER], "This project has several studies: choose one with --kvbench-study (mine, other)."),
        ("kv-memry", [], "Unknown study 'kv-memry'. Did you mean kv-memory?"),
        ("mine", [], "Unknown study 'mine'."),
        ("mine", [MINE, replace(MINE, title="another")], "Two different studies are called mine"),
        ("", [replace(STUDY, title="another")], "Two different studies are called kv-memory: give yours another name."),
        ("", ["mine"], "A str is registered as a study; valid is a kvbench.Study."),
    ],
)
def test_what_cannot_be_found_is_told(name: str, project: list[Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        registry.find(name, project)


def test_the_same_study_twice_is_one() -> None:
    assert registry.find("mine", [MINE, MINE]) is MINE


def several() -> list[Any]:
    return [MINE, OTHER]


def broken() -> None:
    raise RuntimeError("no luck")


def test_installed_packages_register_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(function: str) -> None:
        point = EntryPoint("mine", f"{__name__}:{function}", registry.ENTRY_POINTS)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])
        monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.value.partition(":")[2]])

    register("MINE")
    assert registry.find("mine") is MINE
    assert registry.find("") is STUDY, "a package that is installed changes no default"
    register("several")
    assert registry.find("other") is OTHER
    register("broken")
    with pytest.raises(UserError, match=r"entry point mine \(.*:broken\) cannot be loaded: RuntimeError: no luck"):
        registry.studies()
