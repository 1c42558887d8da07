"""However tests are ordered, selected, repeated and shared out, a session comes to what its histories say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sessions import TinyProject, assert_holds, draw


@pytest.fixture(scope="session")
def tiny_recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first project leaves a bank, references and the plain run's histories for the others."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture
def project(pytester: pytest.Pytester, tiny_recorded: Path) -> TinyProject:
    return TinyProject(pytester, tiny_recorded)


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_session_comes_to_what_the_plain_runs_histories_say(project: TinyProject, seed: int) -> None:
    assert_holds(project, draw(seed))
