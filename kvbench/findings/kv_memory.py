"""The findings of "Knowledge Distillation of ResNet18" (fxnnxc's blog, 2023-04-19): what each claims, and the table.

To add one, write a function from curves to claims and a row of `FINDINGS`; ``kvbench expected rejudge`` records its
verdicts on the references. Limits such as `HARDLY` are ours: the source gives none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.clauses import DIFFERENCE, EPOCHS, RATIO, Claim
from kvbench.findings.curves import ACCURACY, BETTER, LOSS, Curves
from kvbench.findings.finding import Costs, Finding
from kvbench.stats.intervals import Floats, log_losses, spearman, time_to_share, time_to_target
from kvbench.utils.text import number

SIMPLE = ("Model1", "Model2")
MEMORY = ("Model3", "Model4", "Model5", "Model6", "Model7")
ALL = SIMPLE + MEMORY
GROUPS: Mapping[str, tuple[str, ...]] = {  # what students have in common, in words
    "the memories": MEMORY,
    "the linear heads": SIMPLE,
    "GELU": ("Model3", "Model4", "Model7"),
    "ReLU": ("Model5", "Model6"),
    "trained memories": ("Model3", "Model5", "Model7"),
    "frozen memories": ("Model4", "Model6"),
    "what reads more than the last tap": ("Model2", *MEMORY),
    "what reads the third tap from the end, and the sums of memories": MEMORY[:-1],
}
HARDLY = 2.0  # times the best simple loss
RESIDUAL_LOSS, RESIDUAL_ACCURACY = 1.2, 0.02  # "not by much"
FROZEN_LOSS, FROZEN_ACCURACY = 1.05, 0.01  # "no worse"
CORRELATION = -0.8
OWN_SHARE = 0.9  # of a model's own improvement


def simple_converges_faster(curves: Curves, costs: Costs) -> list[Claim]:
    """Epochs to the best memory model's last loss; for information other clocks, other targets, who is ahead first."""
    target = np.min(np.stack([curves.last(m, LOSS) for m in MEMORY]), axis=0)
    steps = np.array(curves.epochs, dtype=np.float64)
    epochs = {m: np.broadcast_to(steps, (len(target), len(steps))) for m in ALL}
    goal = f"than every memory model to a training loss of {number(float(target.mean()), '.3g', missing='no number')}"
    claims = [_sooner(curves, s, "epochs", f"needs fewer epochs {goal}", target, epochs) for s in SIMPLE]
    for clock, times in _clocks(curves, costs, epochs).items():
        says = f"needs fewer {clock} to the same loss{' (epochs x FLOPs a sample)' if clock == 'FLOPs' else ''}"
        claims += [_sooner(curves, simple, clock, says, target, times) for simple in SIMPLE]
    first = {m: curves.curve(m)[:, 0] for m in ALL}
    own = {m: np.array([time_to_share(steps, run, OWN_SHARE) for run in curves.curve(m)]) for m in ALL}
    for simple in SIMPLE:
        models = (simple, *MEMORY)
        sentence = f"{curves.name(simple)} is ahead of every memory model after epoch {curves.epochs[0]} already"
        margins = {m: log_losses(first[m]) - log_losses(first[simple]) for m in MEMORY}
        numbers = curves.means({m: first[m] for m in models})
        claims.append(curves.claim(f"{simple}-first", sentence, RATIO, margins, numbers, gating=False))
        sentence = (
            f"{curves.name(simple)} needs fewer epochs than every memory model to {OWN_SHARE:.0%} of its own "
            f"improvement (of the logarithm of its loss, from epoch {curves.epochs[0]})"
        )
        margins = {m: own[m] - own[simple] for m in MEMORY}
        numbers = curves.means({m: own[m] for m in models}, ".2f")
        claims.append(curves.claim(f"{simple}-own", sentence, EPOCHS, margins, numbers, gating=False))
    return claims


def _clocks(curves: Curves, costs: Costs, epochs: Mapping[str, Floats]) -> dict[str, Mapping[str, Floats]]:
    """Name of each further clock that all models have -> their times (S, E)."""
    flops = {m: costs.get(curves.name(m)) or 0.0 for m in ALL}
    clocks: dict[str, Mapping[str, Floats]] = {"FLOPs": {m: epochs[m] * cost for m, cost in flops.items() if cost > 0}}
    if curves.epochs == tuple(range(1, len(curves.epochs) + 1)):  # else some epochs' seconds are not known
        # the median, as one epoch that stalled on a shared machine would decide a sum
        typical = {m: np.median(curves.curve(m, "seconds"), axis=1, keepdims=True) for m in ALL}
        seconds = {m: epoch * np.array(curves.epochs) for m, epoch in typical.items()}
        clocks["seconds"] = {m: total for m, total in seconds.items() if (total > 0).all()}
    return {clock: times for clock, times in clocks.items() if len(times) == len(ALL)}


def _sooner(curves: Curves, simple: str, clock: str, says: str, target: Floats, times: Mapping[str, Floats]) -> Claim:
    """A claim about who reaches ``target`` (S,) first on a clock, from ``times`` (S, E) of every model.

    A curve that never gets there is censored at the last of its times: the times compared are restricted to the
    training that there was. In epochs that is a bound that still speaks against a simple model, as the best memory
    model gets to its own last loss by then; on other clocks it is no number.
    """
    models = (simple, *MEMORY)
    reached = {m: np.array([time_to_target(*run) for run in zip(times[m], curves.curve(m), target, strict=True)])
               for m in models}  # fmt: skip
    bounded = {m: np.minimum(reached[m], times[m][:, -1]) for m in models}
    counts = clock == "epochs"
    if counts:
        margins = {m: bounded[m] - bounded[simple] for m in MEMORY}
    else:  # epochs of one model cost more than another's: a bound at the last epoch could speak for either side
        own = np.where(np.isinf(reached[simple]), np.nan, np.log(bounded[simple]))
        margins = {m: np.log(bounded[m]) - own for m in MEMORY}
    never = {m: np.isinf(reached[m]) for m in models}
    means = {m: number(float(bounded[m].mean()), ".3g", missing="no number") for m in models}
    return curves.claim(
        f"{simple}-{clock.lower()}",
        f"{curves.name(simple)} {says}",
        EPOCHS if counts else RATIO,
        margins,
        ", ".join(f"{'> ' if never[m].any() else ''}{mean} ({curves.name(m)})" for m, mean in means.items()),
        gating=counts,
        contradicted=counts and bool(never[simple].all()),
        note=f"not reached within epoch {curves.epochs[-1]} by every seed" if never[simple].any() else "",
    )


def simple_is_best(curves: Curves, _: Costs) -> list[Claim]:
    """Per simple model: last loss below, and last accuracy above, that of every memory model."""
    return [
        curves.last_epoch(metric, simple, MEMORY, f"is {BETTER[metric]} every memory model's")
        for simple in SIMPLE
        for metric in BETTER
    ]


def memory_hardly_trains(curves: Curves, _: Costs) -> list[Claim]:
    """Per memory model: last loss at least `HARDLY` times the best simple one, last accuracy below the worst."""
    claims = []
    for memory in MEMORY:
        # the best simple one at each seed
        best = np.max(np.stack([curves.lead(LOSS, simple, memory) for simple in SIMPLE]), axis=0) - np.log(HARDLY)
        says = f"is at least {HARDLY:g}x the best simple model's"
        claims.append(curves.last_epoch(LOSS, memory, {"the best simple model": best}, says, shown=SIMPLE, ties=True))
        margins = {simple: curves.lead(ACCURACY, simple, memory) for simple in SIMPLE}
        claims.append(curves.last_epoch(ACCURACY, memory, margins, "is below every simple model's"))
    return claims


def gelu_beats_relu(curves: Curves, _: Costs) -> list[Claim]:
    """Model3 against Model5 and Model4 against Model6, last loss and accuracy."""
    return [
        curves.last_epoch(metric, gelu, [relu], f"(GELU) is {BETTER[metric]} {curves.name(relu)}'s (ReLU)",
                          title=f"{gelu}-{relu}")
        for gelu, relu in (("Model3", "Model5"), ("Model4", "Model6"))
        for metric in BETTER
    ]  # fmt: skip


def dense_beats_residual(curves: Curves, _: Costs) -> list[Claim]:
    """Model7 against Model3 and Model4: not better, where a tie is not better, and not much worse."""
    claims = []
    for dense in ("Model3", "Model4"):
        title = f"Model7-{dense}"
        for metric in BETTER:
            margins = {dense: curves.lead(metric, dense, "Model7")}
            says = f"is not better than {curves.name(dense)}'s"
            claims.append(curves.last_epoch(metric, "Model7", margins, says, title=f"{title}-not-better", ties=True))
        claims += curves.no_worse("Model7", dense, RESIDUAL_LOSS, RESIDUAL_ACCURACY, f"{title}-not-much-worse")
    return claims


def frozen_memory_suffices(curves: Curves, _: Costs) -> list[Claim]:
    """Model4 (frozen) against Model3 and Model6 against Model5: no worse by more than a small limit."""
    return [
        claim
        for frozen, trained in (("Model4", "Model3"), ("Model6", "Model5"))
        for claim in curves.no_worse(frozen, trained, FROZEN_LOSS, FROZEN_ACCURACY, f"{frozen}-{trained}")
    ]


def loss_predicts_accuracy(curves: Curves, _: Costs) -> list[Claim]:
    """Spearman's correlation over the configurations, per seed."""
    losses, accuracies = (np.stack([curves.last(m, metric) for m in ALL], axis=1) for metric in (LOSS, ACCURACY))
    found = np.array([spearman(*pair) for pair in zip(losses, accuracies, strict=True)])
    sentence = f"Spearman's correlation of training loss and accuracy is at most {CORRELATION:g}"
    numbers = f"mean {number(float(found.mean()), '.3f', missing='no number')}"
    return [curves.claim("spearman", sentence, DIFFERENCE, {"the limit": CORRELATION - found}, numbers, tie_holds=True)]


def scheduler_helps(curves: Curves, _: Costs) -> list[Claim]:
    """Per student: StepLR against constant lr, last loss and accuracy."""
    return [
        curves.last_epoch(metric, SCHEDULED + model, [model], f"is {BETTER[metric]} {model}'s", title=model)
        for model in ALL
        for metric in BETTER
    ]


FINDINGS = {
    row.id: row
    for row in [
        Finding(
            "simple-converges-faster",
            "the simpler model has significantly faster optimization",
            "each simple model reaches the best memory model's last training loss in fewer epochs than every memory "
            "model",
            ALL,
            simple_converges_faster,
        ),
        Finding(
            "simple-is-best",
            "best performance with Models 1 and 2",
            "at the last epoch each simple model has a lower training loss and a higher accuracy than every memory "
            "model",
            ALL,
            simple_is_best,
        ),
        Finding(
            "memory-hardly-trains",
            "Key-value memory is hardly trained",
            f"at the last epoch each memory model's training loss is at least {HARDLY:g}x the best simple one's, and "
            "its accuracy is below every simple one's",
            ALL,
            memory_hardly_trains,
        ),
        Finding(
            "gelu-beats-relu",
            "GELU is better than ReLU",
            "at the last epoch Model3 beats Model5 and Model4 beats Model6, on training loss and accuracy",
            ("Model3", "Model4", "Model5", "Model6"),
            gelu_beats_relu,
        ),
        Finding(
            "dense-beats-residual",
            "residual is worse than dense, not by much",
            "at the last epoch Model7 is not better than Model3 and Model4 (a tie is not better), its training loss "
            f"is at most {RESIDUAL_LOSS:g}x theirs, its accuracy at most {RESIDUAL_ACCURACY:g} lower",
            ("Model3", "Model4", "Model7"),
            dense_beats_residual,
        ),
        Finding(
            "frozen-memory-suffices",
            "a frozen memory is no worse than a trained one (in its tables, not in its prose)",
            "at the last epoch Model4 against Model3, and Model6 against Model5: training loss at most "
            f"{FROZEN_LOSS:g}x, accuracy at most {FROZEN_ACCURACY:g} lower",
            ("Model3", "Model4", "Model5", "Model6"),
            frozen_memory_suffices,
        ),
        Finding(
            "loss-predicts-accuracy",
            "accuracy correlates with training loss",
            "Spearman's correlation of training loss and accuracy over the seven configurations of a recipe, at the "
            f"last epoch, is at most {CORRELATION:g}",
            ALL,
            loss_predicts_accuracy,
        ),
        Finding(
            "scheduler-helps",
            "lr_scheduler is a good way",
            "at the last epoch each student has a lower training loss and a higher accuracy with StepLR than without",
            ALL,
            scheduler_helps,
            compares_recipes=True,
        ),
    ]
}
