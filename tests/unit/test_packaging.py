"""What the project says of its versions."""

from __future__ import annotations

import configparser

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import ROOT


def test_the_oldest_environment_has_the_oldest_versions_that_are_allowed() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    pinned = tox["testenv:oldest"]["deps"].split()

    def versions(lines: list[str]) -> dict[str, set[Version]]:
        return {(one := Requirement(line)).name: {Version(spec.version) for spec in one.specifier} for line in lines}

    assert versions(pinned) == versions(allowed)
