"""What each finding compares: functions from curves to claims, with the limits that they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.clauses import DIFFERENCE, RATIO, Claim
from kvbench.findings.curves import Curves
from kvbench.stats.intervals import Floats, log_losses, spearman

SIMPLE = ("Model1", "Model2")
MEMORY = ("Model3", "Model4", "Model5", "Model6", "Model7")
HARDLY = 2.0  # times the best simple loss
RESIDUAL_LOSS, RESIDUAL_ACCURACY = 1.2, 0.02  # "not by much"
FROZEN_LOSS, FROZEN_ACCURACY = 1.05, 0.01  # "no worse"
CORRELATION = -0.8

Costs = Mapping[str, float]  # configuration -> FLOPs per sample


def simple_is_best(curves: Curves, _: Costs) -> list[Claim]:
    """Per simple model: last loss below, and last accuracy above, that of every memory model."""
    claims = []
    for simple in SIMPLE:
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            sentence = f"{name(curves, simple)}'s {_word(metric)} is {word} every memory model's"
            margins = {m: _lead(curves, metric, simple, m) for m in MEMORY}
            claims.append(_compared(curves, metric, simple, sentence, margins, (simple, *MEMORY)))
    return claims


def memory_hardly_trains(curves: Curves, _: Costs) -> list[Claim]:
    """Per memory model: last loss at least `HARDLY` times the best simple one, last accuracy below the worst."""
    claims = []
    for memory in MEMORY:
        # the best simple one at each seed
        best = np.max(np.stack([-_lead(curves, "train_loss", memory, s) for s in SIMPLE]), axis=0)
        sentence = f"{name(curves, memory)}'s training loss is at least {HARDLY:g}x the best simple model's"
        claims.append(
            _compared(
                curves,
                "train_loss",
                memory,
                sentence,
                {"the best simple model": best - np.log(HARDLY)},
                (memory, *SIMPLE),
                ties=True,
            )
        )
        sentence = f"{name(curves, memory)}'s accuracy is below every simple model's"
        margins = {s: -_lead(curves, "val_accuracy", memory, s) for s in SIMPLE}
        claims.append(_compared(curves, "val_accuracy", memory, sentence, margins, (memory, *SIMPLE)))
    return claims


def gelu_beats_relu(curves: Curves, _: Costs) -> list[Claim]:
    """Model3 against Model5 and Model4 against Model6, last loss and accuracy."""
    claims = []
    for gelu, relu in (("Model3", "Model5"), ("Model4", "Model6")):
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            sentence = f"{name(curves, gelu)}'s {_word(metric)} (GELU) is {word} {name(curves, relu)}'s (ReLU)"
            margins = {relu: _lead(curves, metric, gelu, relu)}
            claims.append(_compared(curves, metric, f"{gelu}-{relu}", sentence, margins, (gelu, relu)))
    return claims


def dense_beats_residual(curves: Curves, _: Costs) -> list[Claim]:
    """Model7 against Model3 and Model4: not better, where a tie is not better, and not much worse."""
    claims = []
    for dense in ("Model3", "Model4"):
        for metric in ("train_loss", "val_accuracy"):
            sentence = f"{name(curves, 'Model7')}'s {_word(metric)} is not better than {name(curves, dense)}'s"
            margins = {dense: _lead(curves, metric, dense, "Model7")}
            pair = ("Model7", dense)
            claims.append(_compared(curves, metric, f"Model7-{dense}-not-better", sentence, margins, pair, ties=True))
        claims += _no_worse(curves, "Model7", dense, RESIDUAL_LOSS, RESIDUAL_ACCURACY, "-not-much-worse")
    return claims


def frozen_memory_suffices(curves: Curves, _: Costs) -> list[Claim]:
    """Model4 (frozen) against Model3 and Model6 against Model5: no worse by more than a small limit."""
    return [
        made
        for frozen, trained in (("Model4", "Model3"), ("Model6", "Model5"))
        for made in _no_worse(curves, frozen, trained, FROZEN_LOSS, FROZEN_ACCURACY, "")
    ]


def loss_predicts_accuracy(curves: Curves, _: Costs) -> list[Claim]:
    """Spearman's correlation over the configurations, per seed."""
    losses = np.stack([curves.last(m, "train_loss") for m in SIMPLE + MEMORY])
    accuracies = np.stack([curves.last(m, "val_accuracy") for m in SIMPLE + MEMORY])
    found = np.array([spearman(losses[:, s], accuracies[:, s]) for s in range(len(curves.seeds))])
    sentence = f"Spearman's correlation of training loss and accuracy is at most {CORRELATION:g}"
    numbers = f"mean {found.mean():.3f}"
    margins = {"the limit": CORRELATION - found}
    return [claim(curves, "spearman", sentence, DIFFERENCE, margins, numbers, tie_holds=True)]


def scheduler_helps(curves: Curves, _: Costs) -> list[Claim]:
    """Per student: StepLR against constant lr, last loss and accuracy."""
    claims = []
    for student in SIMPLE + MEMORY:
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            pair = (SCHEDULED + student, student)
            sentence = f"{pair[0]}'s {_word(metric)} is {word} {pair[1]}'s"
            margins = {student: _lead(curves, metric, *pair)}
            claims.append(_compared(curves, metric, student, sentence, margins, pair))
    return claims


def _no_worse(
    curves: Curves, one: str, other: str, loss_limit: float, accuracy_limit: float, suffix: str
) -> list[Claim]:
    """Two clauses: loss at most ``loss_limit`` times, accuracy at most ``accuracy_limit`` below, the other's."""
    claims = []
    for metric, limit, words in (
        ("train_loss", float(np.log(loss_limit)), f"at most {loss_limit:g}x {name(curves, other)}'s"),
        ("val_accuracy", accuracy_limit, f"at most {accuracy_limit:g} below {name(curves, other)}'s"),
    ):
        sentence = f"{name(curves, one)}'s {_word(metric)} is {words}"
        margins = {other: _lead(curves, metric, one, other) + limit}
        claims.append(_compared(curves, metric, f"{one}-{other}{suffix}", sentence, margins, (one, other), ties=True))
    return claims


def _compared(
    curves: Curves,
    metric: str,
    title: str,
    sentence: str,
    margins: Mapping[str, Floats],
    models: Sequence[str],
    *,
    ties: bool = False,
) -> Claim:
    """A claim about the last epoch's ``metric`` of some ``models``, whose means are shown."""
    scale, kind = (RATIO, "loss") if metric == "train_loss" else (DIFFERENCE, "accuracy")
    numbers = means(curves, {m: curves.last(m, metric) for m in models})
    return claim(curves, f"{title}-{kind}", sentence, scale, margins, numbers, tie_holds=ties)


def claim(
    curves: Curves,
    title: str,
    sentence: str,
    scale: str,
    margins: Mapping[str, Floats],
    numbers: str,
    *,
    tie_holds: bool = False,
    gating: bool = True,
    contradicted: bool = False,
    note: str = "",
) -> Claim:
    """Make a claim from the margins (S,) against each rival."""
    rivals = tuple(name(curves, rival) if rival in SIMPLE + MEMORY else rival for rival in margins)
    matrix = np.stack(list(margins.values()), axis=1)
    return Claim(
        title, sentence, scale, curves.seeds, matrix, rivals, numbers, tie_holds, gating, contradicted, note
    )  # fmt: skip


def _lead(curves: Curves, metric: str, one: str, other: str) -> Floats:
    """(S,) by how much ``one`` is ahead of ``other`` at the last epoch: log ratio of losses, difference of others."""
    mine, theirs = curves.last(one, metric), curves.last(other, metric)
    return log_losses(theirs) - log_losses(mine) if metric == "train_loss" else mine - theirs


def means(curves: Curves, values: Mapping[str, Floats], digits: int = 3) -> str:
    """What the models have, mean over the seeds, in words."""
    return ", ".join(f"{value.mean():.{digits}f} ({name(curves, model)})" for model, value in values.items())


def name(curves: Curves, model: str) -> str:
    """The configuration of a model."""
    return curves.prefix + model


def _word(metric: str) -> str:
    return "training loss" if metric == "train_loss" else "accuracy"
