"""What comparing with the reference came to: a `Check` for each configuration and finding, a `Result` for the session.

Both are frozen. `kvbench.harness.collector.Collector` makes them from complete histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvbench.results.saved import Outcome


@dataclass(frozen=True)
class Check:
    """One configuration or finding against the reference.

    Args:
        outcome: ``PASSED``, ``NOT_CONFIRMED`` where more seeds are needed to tell, ``FAILED``, or ``INCOMPLETE`` where
            it was not or could not be compared.
        text: why, in a few lines; empty if there is nothing to say.
        details: the same with all numbers, for who asks for them.
        metrics: those of a configuration that left the reference.
        notes: what else the summary should say, a sentence each.
    """

    outcome: Outcome
    text: str = ""
    details: str = ""
    metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A whole session.

    Args:
        outcome: ``PASSED`` if every configuration and finding of the workload was compared and nothing failed,
            ``INCOMPLETE`` if only a selection was compared and nothing failed, ``RECORDED`` if it wrote the reference
            as it was asked to, else ``FAILED``.
        checks: of everything that the session's tests selected, by name, configurations first.
        not_compared: all names of the workload that were not compared, selected or not.
        reasons: why the session fails beyond its failed tests, a sentence each.
    """

    outcome: Outcome
    checks: Mapping[str, Check]
    not_compared: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the session's exit status says so: a recording run's does by design."""
        return self.outcome in {Outcome.FAILED, Outcome.RECORDED}

    def names(self, outcome: Outcome) -> list[str]:
        """The configurations and findings that came out so."""
        return [name for name, check in self.checks.items() if check.outcome is outcome]
