"""What each finding compares: functions from curves to judged clauses, with the limits that they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kvbench.clauses import DIFFERENCE, EPOCHS, RATIO, Clause, Curves, clause
from kvbench.recipe import SCHEDULED
from kvbench.statistics import Floats, log_losses, spearman, time_to_target

SIMPLE = ("Model1", "Model2")
MEMORY = ("Model3", "Model4", "Model5", "Model6", "Model7")
HARDLY = 2.0  # times the best simple loss
RESIDUAL_LOSS, RESIDUAL_ACCURACY = 1.2, 0.02  # "not by much"
FROZEN_LOSS, FROZEN_ACCURACY = 1.05, 0.01  # "no worse"
CORRELATION = -0.8

Costs = Mapping[str, float]  # configuration -> FLOPs per sample


def simple_converges_faster(curves: Curves, costs: Costs) -> list[Clause]:
    """Epochs to the best memory model's last loss; beside it seconds, FLOPs and who is ahead after the first epoch."""
    target = _least(curves.last(m, "train_loss") for m in MEMORY)
    epochs = {m: np.broadcast_to(np.asarray(curves.epochs, dtype=float), (len(target), len(curves.epochs)))
              for m in SIMPLE + MEMORY}  # fmt: skip
    judged = [
        _sooner(
            curves,
            f"{simple}-epochs",
            f"{_name(curves, simple)} needs fewer epochs than every memory model to a training loss of "
            f"{target.mean():.3g}",
            EPOCHS,
            simple,
            target,
            epochs,
        )
        for simple in SIMPLE
    ]
    flops = {m: costs.get(_name(curves, m), 0.0) for m in epochs}
    clocks = {"FLOPs": {m: epochs[m] * cost for m, cost in flops.items() if cost > 0}}
    if curves.epochs == tuple(range(1, len(curves.epochs) + 1)):  # else some epochs' seconds are not known
        # the median, as one epoch that stalled on a shared machine would decide a sum
        typical = {m: np.median(curves.curve(m, "seconds"), axis=1, keepdims=True) for m in epochs}
        seconds = {m: epoch * np.array(curves.epochs) for m, epoch in typical.items()}
        clocks["seconds"] = {m: total for m, total in seconds.items() if (total > 0).all()}
    for clock, times in clocks.items():
        if len(times) == len(epochs):
            judged += [
                _sooner(
                    curves,
                    f"{simple}-{clock.lower()}",
                    f"{_name(curves, simple)} needs fewer {clock} to the same loss"
                    + " (epochs x FLOPs a sample)" * (clock == "FLOPs"),
                    RATIO,
                    simple,
                    target,
                    times,
                )
                for simple in SIMPLE
            ]
    first = {m: curves.curve(m)[:, 0] for m in epochs}
    for simple in SIMPLE:
        sentence = f"{_name(curves, simple)} is ahead of every memory model after epoch {curves.epochs[0]} already"
        margins = _least(log_losses(first[m]) for m in MEMORY) - log_losses(first[simple])
        numbers = _means(curves, {m: first[m] for m in (simple, *MEMORY)})
        judged.append(clause(f"{simple}-first", sentence, RATIO, curves.seeds, margins, numbers, gating=False))
    return judged


def simple_is_best(curves: Curves, _: Costs) -> list[Clause]:
    """Per simple model: last loss below, and last accuracy above, that of every memory model."""
    judged = []
    for simple in SIMPLE:
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            sentence = f"{_name(curves, simple)}'s {_word(metric)} is {word} every memory model's"
            margins = _least(_lead(curves, metric, simple, m) for m in MEMORY)
            judged.append(_compared(curves, metric, simple, sentence, margins, (simple, *MEMORY)))
    return judged


def memory_hardly_trains(curves: Curves, _: Costs) -> list[Clause]:
    """Per memory model: last loss at least `HARDLY` times the best simple one, last accuracy below the worst."""
    judged = []
    for memory in MEMORY:
        behind = -_least(_lead(curves, "train_loss", memory, s) for s in SIMPLE)  # to the one farthest ahead
        sentence = f"{_name(curves, memory)}'s training loss is at least {HARDLY:g}x the best simple model's"
        judged.append(
            _compared(curves, "train_loss", memory, sentence, behind - np.log(HARDLY), (memory, *SIMPLE), ties=True)
        )
        sentence = f"{_name(curves, memory)}'s accuracy is below every simple model's"
        margins = _least(-_lead(curves, "val_accuracy", memory, s) for s in SIMPLE)
        judged.append(_compared(curves, "val_accuracy", memory, sentence, margins, (memory, *SIMPLE)))
    return judged


def gelu_beats_relu(curves: Curves, _: Costs) -> list[Clause]:
    """Model3 against Model5 and Model4 against Model6, last loss and accuracy."""
    judged = []
    for gelu, relu in (("Model3", "Model5"), ("Model4", "Model6")):
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            sentence = f"{_name(curves, gelu)}'s {_word(metric)} (GELU) is {word} {_name(curves, relu)}'s (ReLU)"
            margins = _lead(curves, metric, gelu, relu)
            judged.append(_compared(curves, metric, f"{gelu}-{relu}", sentence, margins, (gelu, relu)))
    return judged


def dense_beats_residual(curves: Curves, _: Costs) -> list[Clause]:
    """Model7 against Model3 and Model4: not better, where a tie is not better, and not much worse."""
    judged = []
    for dense in ("Model3", "Model4"):
        for metric in ("train_loss", "val_accuracy"):
            sentence = f"{_name(curves, 'Model7')}'s {_word(metric)} is not better than {_name(curves, dense)}'s"
            margins = _lead(curves, metric, dense, "Model7")
            pair = ("Model7", dense)
            judged.append(_compared(curves, metric, f"Model7-{dense}-not-better", sentence, margins, pair, ties=True))
        judged += _no_worse(curves, "Model7", dense, RESIDUAL_LOSS, RESIDUAL_ACCURACY, "-not-much-worse")
    return judged


def frozen_memory_suffices(curves: Curves, _: Costs) -> list[Clause]:
    """Model4 (frozen) against Model3 and Model6 against Model5: no worse by more than a small limit."""
    return [
        judged
        for frozen, trained in (("Model4", "Model3"), ("Model6", "Model5"))
        for judged in _no_worse(curves, frozen, trained, FROZEN_LOSS, FROZEN_ACCURACY, "")
    ]


def loss_predicts_accuracy(curves: Curves, _: Costs) -> list[Clause]:
    """Spearman's correlation over the configurations, per seed."""
    losses = np.stack([curves.last(m, "train_loss") for m in SIMPLE + MEMORY])
    accuracies = np.stack([curves.last(m, "val_accuracy") for m in SIMPLE + MEMORY])
    found = np.array([spearman(losses[:, s], accuracies[:, s]) for s in range(len(curves.seeds))])
    sentence = f"Spearman's correlation of training loss and accuracy is at most {CORRELATION:g}"
    numbers = f"mean {found.mean():.3f}"
    return [clause("spearman", sentence, DIFFERENCE, curves.seeds, CORRELATION - found, numbers, tie_holds=True)]


def scheduler_helps(curves: Curves, _: Costs) -> list[Clause]:
    """Per student: StepLR against constant lr, last loss and accuracy."""
    judged = []
    for student in SIMPLE + MEMORY:
        for metric, word in (("train_loss", "below"), ("val_accuracy", "above")):
            pair = (SCHEDULED + student, student)
            sentence = f"{pair[0]}'s {_word(metric)} is {word} {pair[1]}'s"
            judged.append(_compared(curves, metric, student, sentence, _lead(curves, metric, *pair), pair))
    return judged


def _no_worse(
    curves: Curves, one: str, other: str, loss_limit: float, accuracy_limit: float, suffix: str
) -> list[Clause]:
    """Two clauses: loss at most ``loss_limit`` times, accuracy at most ``accuracy_limit`` below, the other's."""
    judged = []
    for metric, limit, words in (
        ("train_loss", float(np.log(loss_limit)), f"at most {loss_limit:g}x {_name(curves, other)}'s"),
        ("val_accuracy", accuracy_limit, f"at most {accuracy_limit:g} below {_name(curves, other)}'s"),
    ):
        sentence = f"{_name(curves, one)}'s {_word(metric)} is {words}"
        margins = _lead(curves, metric, one, other) + limit
        judged.append(_compared(curves, metric, f"{one}-{other}{suffix}", sentence, margins, (one, other), ties=True))
    return judged


def _compared(
    curves: Curves,
    metric: str,
    name: str,
    sentence: str,
    margins: Floats,
    models: Sequence[str],
    *,
    ties: bool = False,
) -> Clause:
    """A clause about the last epoch's ``metric`` of some ``models``, whose means are shown."""
    scale, kind = (RATIO, "loss") if metric == "train_loss" else (DIFFERENCE, "accuracy")
    numbers = _means(curves, {m: curves.last(m, metric) for m in models})
    return clause(f"{name}-{kind}", sentence, scale, curves.seeds, margins, numbers, tie_holds=ties)


def _sooner(
    curves: Curves,
    name: str,
    sentence: str,
    scale: str,
    simple: str,
    target: Floats,
    times: Mapping[str, Floats],
) -> Clause:
    """A clause about who reaches ``target`` (S,) first on a clock, from ``times`` (S, E) of every model.

    A curve that never gets there counts as the last of its times. In epochs that is a bound that still speaks against
    it, as the best memory model gets to its own last loss by then; on other clocks a simple model's is no number.
    """
    models = (simple, *MEMORY)
    reached = {m: np.array([time_to_target(*run) for run in zip(times[m], curves.curve(m), target, strict=True)])
               for m in models}  # fmt: skip
    bounded = {m: np.minimum(reached[m], times[m][:, -1]) for m in models}
    if scale == RATIO:
        margins = _least(np.log(bounded[m]) for m in MEMORY) - np.log(bounded[simple])
        # Epochs of one model cost more than another's: there a bound at the last epoch could speak for either side.
        margins = np.where(np.isinf(reached[simple]), np.nan, margins)
    else:
        margins = _least(bounded[m] for m in MEMORY) - bounded[simple]
    never = {m: bool(np.isinf(reached[m]).any()) for m in models}
    shown = [f"{'> ' * never[m]}{bounded[m].mean():.3g} ({_name(curves, m)})" for m in models]
    all_never = bool(np.isinf(reached[simple]).all())
    return clause(
        name,
        sentence,
        scale,
        curves.seeds,
        margins,
        ", ".join(shown),
        gating=scale == EPOCHS,
        contradicted=all_never and scale == EPOCHS,
        note=f"not reached within epoch {curves.epochs[-1]} by every seed" if never[simple] else "",
    )


def _lead(curves: Curves, metric: str, one: str, other: str) -> Floats:
    """(S,) by how much ``one`` is ahead of ``other`` at the last epoch: log ratio of losses, difference of others."""
    mine, theirs = curves.last(one, metric), curves.last(other, metric)
    return log_losses(theirs) - log_losses(mine) if metric == "train_loss" else mine - theirs


def _least(values: Iterable[Floats]) -> Floats:
    """(S,) the smallest at each seed; NaN where one is."""
    return np.asarray(np.min(np.stack(list(values)), axis=0))


def _means(curves: Curves, values: Mapping[str, Floats]) -> str:
    return ", ".join(f"{value.mean():.3f} ({_name(curves, model)})" for model, value in values.items())


def _name(curves: Curves, model: str) -> str:
    return curves.prefix + model


def _word(metric: str) -> str:
    return "training loss" if metric == "train_loss" else "accuracy"
