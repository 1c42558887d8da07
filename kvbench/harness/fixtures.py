"""The pytest plugin's fixtures: a configuration, its training, the comparison with the reference, a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kvbench.harness.interrupts import Resuming
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.text import fold, plain

if TYPE_CHECKING:
    from kvbench.core.recipe import Configuration
    from kvbench.core.trainer import Training
    from kvbench.harness.record import Record
    from kvbench.harness.result import Check
    from kvbench.harness.session import Session

SESSION: pytest.StashKey[Callable[[], Session]] = pytest.StashKey()
RESUMING: pytest.StashKey[Resuming] = pytest.StashKey()
TRAINING: pytest.StashKey[Training | None] = pytest.StashKey()
RECORD: pytest.StashKey[Record | None] = pytest.StashKey()  # of a training that was compared


def end_as(check: Check, config: pytest.Config) -> None:
    """End the test as a check came out: why in a few lines, with ``-v`` all numbers, safe for the terminal."""
    __tracebackhide__ = True
    from kvbench.results.saved import Outcome

    text = message(check, config)
    if check.outcome in {Outcome.FAILED, Outcome.INCOMPLETE}:
        pytest.fail(text, pytrace=False)
    if check.outcome is Outcome.NOT_CONFIRMED:
        pytest.xfail(text)


def message(check: Check, config: pytest.Config) -> str:
    """Why a check came out as it did, for the terminal."""
    text = fold(plain(check.text))
    return f"{text}\n\n{plain(check.details)}" if check.details and config.get_verbosity() > 0 else text


@pytest.fixture
def kvbench_configuration(request: pytest.FixtureRequest) -> Configuration:
    """The configuration under test: a student and a recipe (`kvbench.core.recipe.Configuration`).

    A test that asks for it runs once for every configuration; its id is the configuration's, such as ``linear``.

    Example:
        >>> def test_small_steps(kvbench_configuration):
        ...     assert kvbench_configuration.recipe.lr < 0.01
    """
    row: Configuration = request.param
    return row


@pytest.fixture
def kvbench_training(request: pytest.FixtureRequest, kvbench_configuration: Configuration) -> Iterator[Training]:
    """The training of a configuration with every seed (`kvbench.core.trainer.Training`), ready for its first epoch.

    ``kvbench_training.epoch()`` trains one epoch of every seed and ``kvbench_training.evaluate()`` appends its rows to
    ``kvbench_training.history``, a list of dicts with the columns of the history frame (losses in nat, accuracies as
    shares, seconds). What it has trained when the test ends is saved with the test's ``benchmark``, and compared with
    the reference: a test that asks for a training and does not train it to its end fails the session.

    The session ends if the data, the teacher or an option is wrong: every other training would end in
    the same way. The test alone fails if its student is wrong, and in a worker of pytest-xdist, which cannot end the
    session.

    Example:
        >>> def test_first_epoch(kvbench_training, kvbench_compare):
        ...     kvbench_training.epoch()
        ...     kvbench_training.evaluate()
        ...     assert kvbench_training.history[0]["train_loss"] > 0
        ...     kvbench_compare(kvbench_training)  # trains the other epochs
    """
    __tracebackhide__ = True
    session, resuming = request.config.stash[SESSION](), request.config.stash[RESUMING]
    benchmark: Any = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    resuming.listen()
    problem = ""
    try:
        _ = session.banks
    except UserError as error:
        problem = f"kvbench: {error}"
    if problem:
        _set(benchmark, skipped=True)
        if hasattr(request.config, "workerinput"):  # pytest-xdist breaks where a worker exits
            pytest.fail(problem, pytrace=False)
        pytest.exit(problem, returncode=pytest.ExitCode.USAGE_ERROR)
    try:
        training = session.training(kvbench_configuration, request.node.nodeid)
    except UserError as error:
        problem = str(error)
    if problem:
        # Not "skipped", which a report of a failed setup resets: pytest-benchmark would warn that nothing was timed.
        _set(benchmark, _mode="not timed: the test failed before")
        pytest.fail(problem, pytrace=False)
    request.node.stash[TRAINING] = training
    if not getattr(benchmark, "group", True):
        seeds = "a seed" if session.experiment.study.train else f"{len(session.seeds)} seeds"
        _set(benchmark, group=f"{session.title}: an epoch of {seeds}")
    nothing_to_time = not training.epochs_left
    yield training
    with best_effort("tidy up what was shown of the training"):
        if nothing_to_time and (stats := getattr(benchmark, "stats", None)):
            stats.stats.data.clear()  # of an epoch after the last one, which did nothing: not to be shown
        session.progress.clear()


@pytest.fixture
def kvbench_compare(request: pytest.FixtureRequest) -> Callable[[Training], None]:
    """A function that trains a training to its end and fails the test where its curves leave the reference.

    It takes the training that `kvbench_training` gave, no other, and returns nothing. The test fails with a sentence
    and all numbers if a curve left the reference, if there is no reference, if the reference cannot tell (it has one
    seed), or if the loss is no finite number. With ``--kvbench-update-expected`` it trains and compares nothing.

    Example:
        >>> def test_configuration(kvbench_training, kvbench_compare):
        ...     kvbench_compare(kvbench_training)
    """
    session = request.config.stash[SESSION]()

    def compare(training: Training) -> None:
        __tracebackhide__ = True
        own = request.node.stash.get(TRAINING, None)
        if own is None or training is not own:
            pytest.fail("kvbench_compare takes the training that the same test has of kvbench_training.", pytrace=False)
        problem = ""
        try:
            training.finish()
        except UserError as error:
            problem = str(error)
        if problem:
            pytest.fail(problem, pytrace=False)
        record = request.node.stash[RECORD] = session.record(training)
        end_as(session.collector.check_configuration(record), request.config)

    return compare


@pytest.fixture
def kvbench_finding(request: pytest.FixtureRequest) -> Callable[[], None]:
    """A function that judges a finding and fails the test where its verdict is not the recorded one.

    A test that asks for it runs once for every finding, after all tests that train. It fails if the session lacks
    complete trainings of configurations that the finding is about. Where trainings are still to come, and in a worker
    of pytest-xdist, which knows its own share alone, it skips the test, and the session judges the finding at its end.

    Example:
        >>> def test_finding(kvbench_finding):
        ...     kvbench_finding()
    """
    collector = request.config.stash[SESSION]().collector

    def check() -> None:
        __tracebackhide__ = True
        if hasattr(request.config, "workerinput") or collector.pending:
            pytest.skip("judged at the end of the session, when all trainings are complete")
        end_as(collector.check_finding(request.param), request.config)

    return check


def _set(benchmark: object, **values: object) -> None:
    """Set what pytest-benchmark's fixture has; other fixtures of its name are left as they are."""
    for name, value in values.items():
        if hasattr(benchmark, name):
            setattr(benchmark, name, value)
