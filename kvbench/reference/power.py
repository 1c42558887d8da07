"""Power: how many seeds an effect needs, and what a number of seeds can see, from a reference's spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kvbench.findings.clauses import DIFFERENCE, EPOCHS, RATIO, format_margin
from kvbench.findings.judge import FAMILY_ERROR as FINDINGS_ERROR
from kvbench.reference.compare import error_of_one, grid
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import TOLERANCES, Tolerance
from kvbench.results import history
from kvbench.stats.intervals import deviation, shift_interval
from kvbench.stats.significance import new_seeds_for, seeds_for, smallest, smallest_effect
from kvbench.utils.text import markdown_table


@np.errstate(all="ignore")
def tolerances_table(reference: Reference, seeds: int, loss: float, share: float, names: Sequence[str]) -> str:
    """Markdown: per tolerance the smallest shift that is seen, and the seeds for a shift of a given size.

    Args:
        reference: configurations with one seed, and metrics that were not measured, are left out.
        seeds: fresh ones.
        loss: factor above 1 by which a loss moves.
        share: by how much an accuracy or agreement moves.
        names: configurations to show.
    """
    epochs = history.epochs(reference.histories)
    level = error_of_one(reference)
    rows = []
    for name in names:
        old, replicates = history.of(reference.histories, name), history.of(reference.replicates, name)
        originals = old[old["seed"].isin(history.seeds(replicates))]
        recorded = len(history.seeds(old))
        for tolerance in TOLERANCES:
            values, again, first = (
                tolerance.values(epochs, grid(side, tolerance.metric, epochs)) for side in (old, replicates, originals)
            )
            if recorded < 2 or np.isnan(values).any():
                continue
            spread, floor = deviation(values), tolerance.floor
            seen = smallest(spread, recorded - 1, math.sqrt(1 / recorded + 1 / seeds), level / 2) + floor
            effect = (math.log(loss) if tolerance.loss else share) - floor
            needed = new_seeds_for(effect, spread, recorded, level / 2)
            allowed = shift_interval(again - first, seeds, 1 - level)[1] + floor if len(again) else math.nan
            shifts = [_shift(tolerance, size) for size in (spread, seen, allowed)]
            rows.append([name, tolerance.name, *shifts[:2], _seeds(needed), shifts[2]])
    headers = ["configuration", "tolerance", "SD of a seed", f"seen by {seeds} new seeds",
               f"seeds for {loss:g}x or {share:g}", f"allowed to {seeds} seeds of the reference"]  # fmt: skip
    return markdown_table(headers, rows)


@np.errstate(all="ignore")
def clauses_table(reference: Reference, seeds: int, loss: float, share: float) -> str:
    """Markdown: per clause of every finding the smallest margin seen by ``seeds``, and the seeds for such a margin."""
    level = FINDINGS_ERROR / max(1, len(reference.judgements))
    rows = []
    for judgement in reference.judgements:
        for clause in judgement.gating:
            if clause.n < 2 or math.isnan(clause.margin):
                continue
            effect = {RATIO: math.log(loss), DIFFERENCE: share, EPOCHS: 1.0}[clause.scale]
            seen = smallest_effect(clause.spread, seeds, level)
            margins = [format_margin(margin, clause.scale) for margin in (clause.margin, seen)]
            counts = [_seeds(seeds_for(size, clause.spread, level)) for size in (effect, abs(clause.margin))]
            rows.append([judgement.finding.id, judgement.recipe, clause.id, *margins, *counts])
    headers = ["finding", "recipe", "clause", "recorded margin", f"seen by {seeds} seeds",
               f"seeds for {loss:g}x, {share:g} or 1 epoch", "seeds for the recorded margin"]  # fmt: skip
    return markdown_table(headers, rows)


def _shift(tolerance: Tolerance, size: float) -> str:
    if math.isnan(size):
        return "-"
    return f"{math.expm1(min(size, 700)):.3%}" if tolerance.loss else f"{size:.4f}"


def _seeds(count: int | None) -> str:
    return "out of reach" if count is None else str(count)
