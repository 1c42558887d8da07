"""However tests are ordered, selected and repeated, a session comes to what its histories say."""

from __future__ import annotations

import pytest

from tests.support.sessions import TinyProject, assert_holds, draw


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_session_comes_to_what_the_plain_runs_histories_say(project: TinyProject, seed: int) -> None:
    assert_holds(project, draw(seed))
