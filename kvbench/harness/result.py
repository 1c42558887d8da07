"""What comparing with the reference came to: a `Check` for each configuration and finding, a `Result` for the session.

Both are frozen. `kvbench.harness.collector.Collector` makes them from complete histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from kvbench.results.saved import RunOutcome


class State(Enum):
    """How a configuration or finding compares with the reference."""

    PASSED = "passed"
    UNSETTLED = "unsettled"  # it was judged, and more seeds are needed to tell
    FAILED = "failed"
    MISSING = "missing"  # it was not or could not be compared


@dataclass(frozen=True)
class Check:
    """One configuration or finding against the reference.

    Args:
        state: how it came out.
        text: why, with all numbers; empty if there is nothing to say.
        metrics: those of a configuration that left the reference.
        repeated: clauses of a finding that its seeds cannot decide, and that came out as recorded seed by seed.
        notes: what else the summary should say, a sentence each.
    """

    state: State
    text: str = ""
    metrics: tuple[str, ...] = ()
    repeated: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A whole session.

    Args:
        outcome: ``PASSED`` if every configuration and finding of the workload was compared and nothing failed,
            ``INCOMPLETE`` if only a selection was compared and nothing failed, else ``FAILED``.
        checks: of everything that the session's tests selected, by name, configurations first.
        not_compared: all names of the workload that were not compared, selected or not.
        reasons: why the session fails beyond its failed tests, a sentence each.
    """

    outcome: RunOutcome
    checks: Mapping[str, Check]
    not_compared: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    def names(self, state: State) -> list[str]:
        """The configurations and findings that came out so."""
        return [name for name, check in self.checks.items() if check.state is state]
