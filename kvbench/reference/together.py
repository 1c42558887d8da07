"""All configurations as one: a shift in the same direction that each of them shows too little of by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvbench.reference.compare import error_of_one, grid, repeats
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import TOLERANCES, Tolerance
from kvbench.results import history
from kvbench.stats.intervals import Floats, prediction_interval, standardized_sum
from kvbench.utils.text import number


@dataclass(frozen=True)
class Together:
    """How far a tolerance's number is from the reference, over all configurations.

    Args:
        tolerance: which number.
        configurations: how many there are.
        shift: the mean over configurations of the difference in standard deviations between seeds.
        allowed: how large it may be.
    """

    tolerance: Tolerance
    configurations: int
    shift: float
    allowed: float

    @property
    def excess(self) -> float:
        """The shift over what is allowed; above 1 the run fails."""
        return abs(self.shift) / self.allowed

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail."""
        return self.excess > 1

    def describe(self, side: str = "the reference") -> str:
        """One sentence; ``side`` is what it was compared with."""
        return (
            f"{self.tolerance.name}: over all {self.configurations} configurations together it is"
            f" {number(self.shift, '+.2f')} standard deviations between seeds from {side}; allowed are"
            f" {number(self.allowed, '.2f')} either way"
        )


@np.errstate(all="ignore")
def compare_together(
    reference: Reference, fresh: pd.DataFrame, rng_fingerprint: str = "", names: Sequence[str] = ()
) -> tuple[Together, ...]:
    """Compare all configurations of a fresh run with the reference as one, where its seeds are new.

    Each configuration's numbers are divided by their standard deviation over recorded and fresh seeds together, and a
    seed's numbers are added up over the configurations: `standardized_sum`. What a seed's configurations have in
    common, such as the order of batches, is in its sum, so no independence is assumed. The fresh seeds' mean sum must
    lie in the `prediction_interval` of the recorded ones, widened by the floor. It counts as one more configuration:
    see `error_of_one`.

    Args:
        reference: what `kvbench.reference.store.load` returns.
        fresh: a history frame; nothing is compared unless it has all of these configurations.
        rng_fingerprint: as for `kvbench.reference.compare.compare`; seeds that repeat are compared with themselves
            there, and nothing is compared here.
        names: these configurations instead of all of the reference's.

    Example:
        >>> compare_together(reference, reference.histories)  # doctest: +SKIP
        ()
    """
    names = list(names) or history.configurations(reference.histories)
    if (
        len(names) < 2
        or not set(names) <= set(history.configurations(fresh))
        or repeats(reference, fresh, rng_fingerprint)
    ):
        return ()
    epochs = history.epochs(reference.histories)
    old, new = (_shared(side, names, epochs) for side in (reference.histories, fresh))
    if len(history.seeds(old)) < 2 or new.empty:
        return ()
    level, found = 1 - error_of_one(reference), []
    for tolerance in TOLERANCES:
        recorded, mine = (_values(tolerance, side, names, epochs) for side in (old, new))
        if not (np.isfinite(recorded).all() and np.isfinite(mine).all()):
            continue  # each configuration says so itself
        sums, fresh_sums, scale = standardized_sum(recorded, mine)
        if scale == 0:  # no spread anywhere
            continue
        high = prediction_interval(sums, len(mine), level)[1] - float(sums.mean()) + scale * tolerance.floor
        found.append(Together(tolerance, len(names), float(fresh_sums.mean() - sums.mean()), high))
    return tuple(found)


def _shared(histories: pd.DataFrame, names: Sequence[str], epochs: Sequence[int]) -> pd.DataFrame:
    """The rows of these configurations at these epochs, of the seeds that have all of them."""
    rows = histories[histories["configuration"].isin(names) & histories["epoch"].isin(epochs)]
    counts = rows.groupby("seed").size()
    complete = counts[counts == len(names) * len(epochs)].index
    return rows[rows["seed"].isin(complete)].sort_values(["configuration", "seed", "epoch"])


def _values(tolerance: Tolerance, rows: pd.DataFrame, names: Sequence[str], epochs: Sequence[int]) -> Floats:
    """(S, configurations) of one number."""
    columns = [tolerance.values(epochs, grid(history.of(rows, name), tolerance.metric, epochs)) for name in names]
    return np.stack(columns, axis=1)
