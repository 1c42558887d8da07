"""Two hundred drawn sessions, some in two processes, come to what the plain run's histories say."""

from __future__ import annotations

import pytest

from tests.support.sessions import TinyProject, assert_holds, draw
from tests.support.trials import trials

IN_WORKERS = 10  # one in so many


@pytest.mark.parametrize("seed", range(trials(200)))
def test_a_drawn_session_comes_to_what_the_plain_runs_histories_say(project: TinyProject, seed: int) -> None:
    assert_holds(project, draw(seed, workers=0 if seed % IN_WORKERS else 2))
