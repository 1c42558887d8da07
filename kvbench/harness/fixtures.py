"""The pytest plugin's fixtures: a configuration, its training, the comparison with the reference, a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.core.timer import Clock
from kvbench.harness.interrupts import CLOCK, Resuming
from kvbench.utils.errors import UserError
from kvbench.utils.text import plain

if TYPE_CHECKING:
    from kvbench.core.recipe import Configuration
    from kvbench.core.trainer import Training
    from kvbench.harness.outcome import Outcome
    from kvbench.harness.plugin import KvbenchPlugin

PLUGIN: pytest.StashKey[KvbenchPlugin] = pytest.StashKey()
RESUMING: pytest.StashKey[Resuming] = pytest.StashKey()
TRAINING: pytest.StashKey[Training] = pytest.StashKey()
MOVED: pytest.StashKey[tuple[str, ...]] = pytest.StashKey()


def end_as(outcome: Outcome) -> None:
    """End the test as a comparison came out; its text, which names what files name, is made safe for the terminal."""
    __tracebackhide__ = True
    if outcome.lacking:
        pytest.skip(plain(outcome.text))
    if outcome.failed:
        pytest.fail(plain(outcome.text), pytrace=False)
    if outcome.unsettled:
        pytest.xfail(plain(outcome.text))


@pytest.fixture
def kvbench_configuration(request: pytest.FixtureRequest) -> Configuration:
    """The configuration under test; a test that asks for it runs once for every configuration."""
    row: Configuration = request.param
    return row


@pytest.fixture
def kvbench_training(
    request: pytest.FixtureRequest, benchmark: Any, kvbench_configuration: Configuration
) -> Iterator[Training]:
    """A `kvbench.core.trainer.Training` of the configuration with every seed, ready for its first epoch.

    Whatever it has trained when the test ends is kept as history in ``benchmark.extra_info``.
    """
    session, resuming = request.config.stash[PLUGIN].session, request.config.stash[RESUMING]
    resuming.listen()
    try:
        clock = request.node.stash.get(CLOCK, None) or Clock()
        training = session.training(kvbench_configuration, request.node.nodeid, clock)
    except UserError as error:
        # Every other configuration would end in the same way: say it once and stop.
        benchmark.skipped = True
        pytest.exit(f"kvbench: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
    request.node.stash[TRAINING] = training
    from kvbench.harness.resume import told

    for text in told(training):
        resuming.say(text)
    benchmark.group = benchmark.group or f"{session.workload.name}: an epoch of {len(session.seeds)} seeds"
    yield training
    session.progress.clear()


@pytest.fixture
def kvbench_compare(request: pytest.FixtureRequest) -> Callable[[Training], None]:
    """A function that trains a training to its end and fails the test where its curves leave the reference."""
    session = request.config.stash[PLUGIN].session

    def compare(training: Training) -> None:
        __tracebackhide__ = True
        try:
            training.finish()
            outcome = session.compare(training)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        request.node.stash[MOVED] = outcome.moved
        end_as(outcome)

    return compare


@pytest.fixture
def kvbench_finding(request: pytest.FixtureRequest) -> Callable[[], None]:
    """A function that judges a finding and fails the test where its verdict is not the recorded one.

    A test that asks for it runs once for every finding, after all tests that train.
    """
    session = request.config.stash[PLUGIN].session

    def check() -> None:
        __tracebackhide__ = True
        if hasattr(request.config, "workerinput"):
            pytest.skip("judged at the end of the session, when all workers are done")
        try:
            outcome = session.collector.check_finding(request.param)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        end_as(outcome)

    return check
