"""Power: how many seeds an effect needs, and what a number of seeds can see, from a reference's spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kvbench.findings.clauses import DIFFERENCE, EPOCHS, RATIO, show
from kvbench.findings.registry import FAMILY_ERROR as FINDINGS_ERROR
from kvbench.reference.compare import FAMILY_ERROR, grid
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import GATES, LOSS_FLOOR, SHARE_FLOOR, Gate
from kvbench.results import history
from kvbench.stats.intervals import deviation, shift_interval
from kvbench.stats.significance import new_seeds_for, seeds_for, smallest, smallest_effect
from kvbench.utils.text import markdown_table


def gates_table(reference: Reference, seeds: int, loss: float, share: float, names: Sequence[str]) -> str:
    """Markdown: per gate the smallest shift that is seen, and the seeds for a shift of a given size.

    Args:
        reference: with at least two seeds.
        seeds: fresh ones.
        loss: factor above 1 by which a loss moves.
        share: by how much an accuracy or agreement moves.
        names: configurations to show.
    """
    epochs = history.epochs(reference.histories)
    level = FAMILY_ERROR / (len(GATES) * len(history.configurations(reference.histories)))
    rows = []
    for name in names:
        old = reference.histories[reference.histories["configuration"] == name]
        replicates = reference.replicates[reference.replicates["configuration"] == name]
        recorded = len(history.seeds(old))
        for gate in GATES:
            values = gate.values(epochs, grid(old, gate.metric, epochs))
            if np.isnan(values).any():
                continue
            spread, floor = deviation(values), LOSS_FLOOR if gate.loss else SHARE_FLOOR
            error = math.sqrt(1 / recorded + 1 / seeds)
            seen = smallest(spread, recorded - 1, error, level / 2) + floor
            needed = new_seeds_for((math.log(loss) if gate.loss else share) - floor, spread, recorded, level / 2)
            same = "-"
            if len(replicates):
                originals = old[old["seed"].isin(history.seeds(replicates))]
                moved = gate.values(epochs, grid(replicates, gate.metric, epochs)) - gate.values(
                    epochs, grid(originals, gate.metric, epochs)
                )
                same = _shift(gate, shift_interval(moved, seeds, 1 - level)[1] + floor)
            rows.append([name, gate.name, _shift(gate, spread), _shift(gate, seen), _seeds(needed), same])
    wanted = f"seeds for {loss:g}x or {share:g}"
    headers = ["configuration", "gate", "SD of a seed", f"seen by {seeds} new seeds", wanted,
               f"allowed to {seeds} seeds of the reference"]  # fmt: skip
    return markdown_table(headers, rows)


def clauses_table(reference: Reference, seeds: int, loss: float, share: float) -> str:
    """Markdown: per clause of every finding the smallest margin seen by ``seeds``, and the seeds for such a margin."""
    level = FINDINGS_ERROR / len(reference.judgements)
    rows = []
    for judgement in reference.judgements:
        for clause in judgement.gating:
            if clause.n < 2 or math.isnan(clause.margin):
                continue
            effect = {RATIO: math.log(loss), DIFFERENCE: share, EPOCHS: 1.0}[clause.scale]
            seen = show(smallest_effect(clause.spread, seeds, level), clause.scale)
            now = seeds_for(abs(clause.margin), clause.spread, level)
            rows.append([judgement.finding.id, judgement.recipe, clause.id, show(clause.margin, clause.scale), seen,
                         _seeds(seeds_for(effect, clause.spread, level)), _seeds(now)])  # fmt: skip
    headers = ["finding", "recipe", "clause", "recorded margin", f"seen by {seeds} seeds",
               f"seeds for {loss:g}x, {share:g} or 1 epoch", "seeds for the recorded margin"]  # fmt: skip
    return markdown_table(headers, rows)


def _shift(gate: Gate, size: float) -> str:
    return f"{math.expm1(min(size, 700)):.3%}" if gate.loss else f"{size:.4f}"


def _seeds(count: int | None) -> str:
    return "out of reach" if count is None else str(count)
