"""What the project says of its versions."""

from __future__ import annotations

import configparser
import re

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


def test_tox_pre_commit_and_ci_make_the_same_checks() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    checks = tox["testenv:lint"]["commands"].split("\n")[1:]
    assert len(checks) == 4
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"entry: ([^,]+),", hooks) == checks
    assert "\n".join(["", *checks, ""]) in (ROOT / ".ci" / "run").read_text()
