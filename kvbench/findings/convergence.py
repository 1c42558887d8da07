"""The finding about speed: who reaches a loss first, on which clock."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvbench.findings.claims import MEMORY, SIMPLE, Costs, claim, means, name
from kvbench.findings.clauses import EPOCHS, RATIO, Claim
from kvbench.findings.curves import Curves
from kvbench.stats.intervals import Floats, log_losses, time_to_share, time_to_target

OWN_SHARE = 0.9  # of a model's own improvement


def simple_converges_faster(curves: Curves, costs: Costs) -> list[Claim]:
    """Epochs to the best memory model's last loss; beside it other clocks, other targets, and who is ahead first."""
    target = np.min(np.stack([curves.last(m, "train_loss") for m in MEMORY]), axis=0)
    epochs = {m: np.broadcast_to(np.asarray(curves.epochs, dtype=float), (len(target), len(curves.epochs)))
              for m in SIMPLE + MEMORY}  # fmt: skip
    claims = [
        _sooner(
            curves,
            f"{simple}-epochs",
            f"{name(curves, simple)} needs fewer epochs than every memory model to a training loss of "
            f"{target.mean():.3g}",
            EPOCHS,
            simple,
            target,
            epochs,
        )
        for simple in SIMPLE
    ]
    for clock, times in _clocks(curves, costs, epochs).items():
        claims += [
            _sooner(
                curves,
                f"{simple}-{clock.lower()}",
                f"{name(curves, simple)} needs fewer {clock} to the same loss"
                + " (epochs x FLOPs a sample)" * (clock == "FLOPs"),
                RATIO,
                simple,
                target,
                times,
            )
            for simple in SIMPLE
        ]
    first = {m: curves.curve(m)[:, 0] for m in epochs}
    own = {m: np.array([time_to_share(curves.epochs, run, OWN_SHARE) for run in curves.curve(m)]) for m in epochs}
    for simple in SIMPLE:
        models = (simple, *MEMORY)
        sentence = f"{name(curves, simple)} is ahead of every memory model after epoch {curves.epochs[0]} already"
        margins = {m: log_losses(first[m]) - log_losses(first[simple]) for m in MEMORY}
        numbers = means(curves, {m: first[m] for m in models})
        claims.append(claim(curves, f"{simple}-first", sentence, RATIO, margins, numbers, gating=False))
        sentence = (
            f"{name(curves, simple)} needs fewer epochs than every memory model to {OWN_SHARE:.0%} of its own "
            f"improvement (of the logarithm of its loss, from epoch {curves.epochs[0]})"
        )
        margins = {m: own[m] - own[simple] for m in MEMORY}
        numbers = means(curves, {m: own[m] for m in models}, digits=2)
        claims.append(claim(curves, f"{simple}-own", sentence, EPOCHS, margins, numbers, gating=False))
    return claims


def _clocks(curves: Curves, costs: Costs, epochs: Mapping[str, Floats]) -> dict[str, Mapping[str, Floats]]:
    """Name of each further clock that all models have -> their times (S, E)."""
    flops = {m: costs.get(name(curves, m), 0.0) for m in epochs}
    clocks: dict[str, Mapping[str, Floats]] = {"FLOPs": {m: epochs[m] * cost for m, cost in flops.items() if cost > 0}}
    if curves.epochs == tuple(range(1, len(curves.epochs) + 1)):  # else some epochs' seconds are not known
        # the median, as one epoch that stalled on a shared machine would decide a sum
        typical = {m: np.median(curves.curve(m, "seconds"), axis=1, keepdims=True) for m in epochs}
        seconds = {m: epoch * np.array(curves.epochs) for m, epoch in typical.items()}
        clocks["seconds"] = {m: total for m, total in seconds.items() if (total > 0).all()}
    return {clock: times for clock, times in clocks.items() if len(times) == len(epochs)}


def _sooner(
    curves: Curves,
    title: str,
    sentence: str,
    scale: str,
    simple: str,
    target: Floats,
    times: Mapping[str, Floats],
) -> Claim:
    """A claim about who reaches ``target`` (S,) first on a clock, from ``times`` (S, E) of every model.

    A curve that never gets there is censored at the last of its times: the times compared are restricted to the
    training that there was. In epochs that is a bound that still speaks against a simple model, as the best memory
    model gets to its own last loss by then; on other clocks it is no number.
    """
    models = (simple, *MEMORY)
    reached = {m: np.array([time_to_target(*run) for run in zip(times[m], curves.curve(m), target, strict=True)])
               for m in models}  # fmt: skip
    bounded = {m: np.minimum(reached[m], times[m][:, -1]) for m in models}
    if scale == RATIO:
        # Epochs of one model cost more than another's: there a bound at the last epoch could speak for either side.
        own = np.where(np.isinf(reached[simple]), np.nan, np.log(bounded[simple]))
        margins = {m: np.log(bounded[m]) - own for m in MEMORY}
    else:
        margins = {m: bounded[m] - bounded[simple] for m in MEMORY}
    never = {m: bool(np.isinf(reached[m]).any()) for m in models}
    shown = [f"{'> ' * never[m]}{bounded[m].mean():.3g} ({name(curves, m)})" for m in models]
    all_never = bool(np.isinf(reached[simple]).all())
    return claim(
        curves,
        title,
        sentence,
        scale,
        margins,
        ", ".join(shown),
        gating=scale == EPOCHS,
        contradicted=all_never and scale == EPOCHS,
        note=f"not reached within epoch {curves.epochs[-1]} by every seed" if never[simple] else "",
    )
