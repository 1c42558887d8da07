"""The ablation: every configuration trained and compared with its reference, then every finding judged.

Written with kvbench's public fixtures alone: copy it into another project as a start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from kvbench.core.trainer import Training


def test_configuration(
    benchmark: BenchmarkFixture, kvbench_training: Training, kvbench_compare: Callable[[Training], None]
) -> None:
    """Train one configuration, timed by the epoch; evaluation stays outside the timer."""
    rounds = max(1, kvbench_training.epochs_left)  # pytest-benchmark asks for one; after the last epoch it does nothing
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        kvbench_training.epoch, rounds=rounds, iterations=1, teardown=kvbench_training.evaluate
    )
    kvbench_compare(kvbench_training)


def test_finding(kvbench_finding: Callable[[], None]) -> None:
    """Judge one finding on the histories that the configurations left."""
    kvbench_finding()
