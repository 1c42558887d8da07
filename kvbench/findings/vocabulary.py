"""The vocabulary of findings: terms that compare students, and groups of them, on the metrics of a history.

A row of a study's findings is a sentence and its terms:

    Finding("deep-is-better", "deeper students are better", better("deep", "shallow"))
    Finding("deep-is-slower", "and take twice the time", at_least(2, "deep", best_of("shallow"), "seconds"))

Whoever is compared is named as a student, a group or tag, `EVERYONE`, or several of them in a tuple. A term about a
group makes a clause for each of its students. Against a group it must be so for every one of it (each pair is tested),
for at least one (`any_of`), or against the best of them at each seed (`best_of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from kvbench.findings.clauses import DIFFERENCE, EPOCHS, RATIO, Claim
from kvbench.findings.curves import (
    ACCURACY,
    EVERYONE,
    LOSS,
    SHORT,
    WORDS,
    Costs,
    Curves,
    check_metric,
    lead,
    means,
    rises,
)
from kvbench.findings.finding import Groups, Term
from kvbench.results import history
from kvbench.stats.intervals import Floats, log_area, spearman, time_to_share, time_to_target
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.text import number

AT_THE_END = "at the last epoch"
EVERY, ANY, BEST = "every", "at least one", "the best"


@dataclass(frozen=True)
class Who:
    """Students by name, group or tag, and whether every one of them is meant, at least one, or the best."""

    names: tuple[str, ...]
    which: str = EVERY

    @classmethod
    def of(cls, who: Whom) -> Who:
        """What a term was given."""
        return who if isinstance(who, Who) else cls((who,) if isinstance(who, str) else tuple(who))

    def students(self, curves: Curves) -> tuple[str, ...]:
        """Their names."""
        return tuple(dict.fromkeys(itertools.chain(*map(curves.members, self.names))))

    def single(self, groups: Groups) -> bool:
        """Whether one student is meant, by name."""
        return len(self.names) == 1 and self.names[0] not in groups and self.names[0] != EVERYONE

    def words(self, groups: Groups, *, other: bool = False) -> str:
        """``mlp``, ``every deep model``, ``the best other deep model``."""
        if self.single(groups):
            return self.names[0]
        called = " or ".join(name for name in self.names if name != EVERYONE)
        return " ".join(filter(None, [self.which, "other" if other else "", called, "model"]))


Whom = Union[str, Sequence[str], Who]


def _others(rivals: Who, curves: Curves, student: str) -> tuple[tuple[str, ...], str]:
    """The rivals of a student, itself left out, and what they are called."""
    everyone = rivals.students(curves)
    others = tuple(name for name in everyone if name != student)
    if not others:
        raise UserError(f"{student} is compared with nobody but itself.")
    return others, rivals.words(curves.groups, other=len(others) < len(everyone))


def any_of(*names: str) -> Who:
    """At least one of these students or groups.

    Example:
        >>> below("mlp", any_of("deep")).describe({"deep": ("conv", "attention")})
        "mlp's training loss is below at least one deep model's"
    """
    return Who(names, ANY)


def best_of(*names: str) -> Who:
    """Whoever is the best of these students or groups at each seed.

    Example:
        >>> below("mlp", best_of("deep")).describe({"deep": ("conv", "attention")})
        "mlp's training loss is below the best deep model's"
    """
    return Who(names, BEST)


@dataclass(frozen=True)
class Comparison(Term):
    """Each student of the subject against its rivals, by a metric at the last epoch. `below` and others make it.

    Args:
        subject: who is compared.
        rivals: with whom; None: with itself, under the second recipe of ``across``.
        metric: of the history.
        relation: in words: ``is below``.
        better: whether the claim is that the subject is the better one, else that it is the worse one.
        limit: what is added to margins: of log ratios or of differences.
        tie_holds: whether no difference supports it.
        label: stands in the clauses' ids, before the metric.
        said: what stands in brackets behind the subject and the rivals.
        across: two recipes: the subject's and the rivals'.
    """

    subject: Who
    rivals: Who | None
    metric: str
    relation: str
    better: bool
    limit: float = 0.0
    tie_holds: bool = False
    label: str = ""
    said: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    when = AT_THE_END

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.subject.which != EVERY:
            raise UserError("any_of and best_of name rivals; a clause is about each student of its subject.")
        if self.rivals is None and not self.across:
            raise UserError("A comparison needs rivals, or two recipes to compare across.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The students and groups that it is about."""
        return (*self.subject.names, *(self.rivals.names if self.rivals else ()))

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:  # noqa: ARG002
        """A claim for each student of the subject."""
        return [self._claim(curves, student) for student in self.subject.students(curves)]

    def _claim(self, curves: Curves, student: str) -> Claim:
        theirs = curves.second if self.across else curves
        rivals = self.rivals or Who((student,))
        others, words = _others(rivals, curves, "" if self.across else student)
        own, values = curves.last(student, self.metric), {n: theirs.last(n, self.metric) for n in others}
        words = theirs.name(words)
        sides = theirs.named(values)
        if rivals.which == BEST:  # at each seed
            sides = {words: (np.max if rises(self.metric) else np.min)(np.stack(list(values.values())), axis=0)}
        named = rivals.names[0] if self.rivals and rivals.single(curves.groups) else ""
        title = [student, named, self.label, SHORT.get(self.metric, self.metric)]
        first, second = self._said
        return curves.claim(
            "-".join(filter(None, title)),
            f"{curves.name(student)}'s {WORDS[self.metric]}{first} {self.relation} {words}'s{second}",
            DIFFERENCE if rises(self.metric) else RATIO,
            {name: self._lead(own, value) + self.limit for name, value in sides.items()},
            means({curves.name(student): own} | theirs.named(values)),
            tie_holds=self.tie_holds,
            some=rivals.which == ANY,
        )

    def _lead(self, mine: Floats, theirs: Floats) -> Floats:
        return lead(self.metric, mine, theirs) if self.better else lead(self.metric, theirs, mine)

    @property
    def _said(self) -> tuple[str, str]:
        return (f" ({self.said[0]})", f" ({self.said[1]})") if self.said else ("", "")

    def describe(self, groups: Groups) -> str:
        """The statement in words."""
        first, second = self._said
        mine, theirs = (f" with {recipe}" for recipe in self.across) if self.across else ("", "")
        shared = not self.across and self.rivals is not None and {EVERYONE, *self.subject.names} & {*self.rivals.names}
        others = f"{self.rivals.words(groups, other=bool(shared))}'s" if self.rivals else "its own"
        head = f"{self.subject.words(groups)}'s {WORDS[self.metric]}{mine}{first}"
        return f"{head} {self.relation} {others}{theirs}{second}"


def below(subject: Whom, rivals: Whom | None, metric: str = LOSS, *, label: str = "", said: tuple[str, ...] = (),
          across: tuple[str, ...] = ()) -> Comparison:  # fmt: skip
    """The subject's metric is below its rivals' at the last epoch; a tie is not below.

    Args:
        subject: a student, a group or tag, a tuple of them, or `EVERYONE`: a clause for each student.
        rivals: likewise, or `any_of` or `best_of` them; None where recipes are compared: the same student.
        metric: of the history frame.
        label: stands in the clauses' ids, where they would be another term's.
        said: a few words in brackets for each side, such as ``("GELU", "ReLU")``.
        across: two recipes, of the subject and of the rivals; empty: judged on each recipe by itself.

    Raises:
        UserError: there is no such metric, or nobody to compare with.

    Example:
        >>> below("mlp", "linear").describe({})
        "mlp's training loss is below linear's"
        >>> below("all", None, "val_loss", across=("cosine", "constant lr")).describe({})
        "every model's validation loss with cosine is below its own with constant lr"
    """
    who = None if rivals is None else Who.of(rivals)
    return Comparison(Who.of(subject), who, metric, "is below", not rises(metric), label=label, said=said,
                      across=across)  # fmt: skip


def above(subject: Whom, rivals: Whom | None, metric: str = ACCURACY, *, label: str = "", said: tuple[str, ...] = (),
          across: tuple[str, ...] = ()) -> Comparison:  # fmt: skip
    """The subject's metric is above its rivals'; a tie is not above. Arguments as in `below`.

    Example:
        >>> above("deep", any_of("shallow")).describe({"deep": ("mlp",), "shallow": ("linear", "sum")})
        "every deep model's accuracy is above at least one shallow model's"
    """
    who = None if rivals is None else Who.of(rivals)
    return Comparison(Who.of(subject), who, metric, "is above", rises(metric), label=label, said=said,
                      across=across)  # fmt: skip


def better(subject: Whom, rivals: Whom | None = None, metrics: Sequence[str] = (LOSS, ACCURACY), *, label: str = "",
           said: tuple[str, ...] = (), across: tuple[str, ...] = ()) -> list[Comparison]:  # fmt: skip
    """`below` or `above` its rivals on each of several metrics, whichever is the better side.

    Example:
        >>> [term.describe({}) for term in better("mlp", "linear")]
        ["mlp's training loss is below linear's", "mlp's accuracy is above linear's"]
    """
    return [(above if rises(metric) else below)(subject, rivals, metric, label=label, said=said, across=across)
            for metric in metrics]  # fmt: skip


def not_better(subject: Whom, rivals: Whom, metrics: Sequence[str] = (LOSS, ACCURACY), *,
               label: str = "not-better") -> list[Comparison]:  # fmt: skip
    """The subject is no better than its rivals on each of several metrics; a tie is not better.

    Example:
        >>> not_better("mlp", "linear", ["agreement"])[0].describe({})
        "mlp's agreement with the teacher is not better than linear's"
    """
    return [
        Comparison(Who.of(subject), Who.of(rivals), metric, "is not better than", False, tie_holds=True, label=label)
        for metric in metrics
    ]


def no_worse(subject: Whom, rivals: Whom, by: Mapping[str, float], *, label: str = "") -> list[Comparison]:
    """The subject is worse than its rivals by no more than a limit on each of several metrics.

    Args:
        subject: as in `below`.
        rivals: as in `below`.
        by: metric -> limit: the factor, from 1, for what is better the less it is; the difference, from 0, for shares.
        label: as in `below`.

    Raises:
        UserError: there is no such metric, or the limit would ask for more than no difference.

    Example:
        >>> [term.describe({}) for term in no_worse("mlp", "linear", {"train_loss": 1.05, "val_accuracy": 0.01})]
        ["mlp's training loss is at most 1.05x linear's", "mlp's accuracy is at most 0.01 below linear's"]
    """
    terms = []
    for metric, limit in by.items():
        least = 0 if rises(check_metric(metric)) else 1
        if not limit >= least:
            raise UserError(f"no_worse by {metric} {limit:g}: valid is a number from {least}.")
        words, slack = (f"{limit:g} below", limit) if rises(metric) else (f"{limit:g}x", float(np.log(limit)))
        terms.append(Comparison(Who.of(subject), Who.of(rivals), metric, f"is at most {words}", True, slack,
                                tie_holds=True, label=label))  # fmt: skip
    return terms


def at_least(factor: float, subject: Whom, rivals: Whom, metric: str = LOSS, *, label: str = "") -> Comparison:
    """The subject's loss, or its seconds, are at least ``factor`` times its rivals'.

    Raises:
        UserError: the factor is not above 0, or the metric is a share, of which differences count.

    Example:
        >>> at_least(2, "mlp", best_of("shallow"), "seconds").describe({"shallow": ("linear",)})
        "mlp's time of an epoch is at least 2x the best shallow model's"
    """
    if rises(check_metric(metric)) or not factor > 0:
        raise UserError(f"at_least {factor:g} times {metric}: valid are a factor above 0, and a loss or seconds.")
    return Comparison(Who.of(subject), Who.of(rivals), metric, f"is at least {factor:g}x", False,
                      -float(np.log(factor)), tie_holds=True, label=label)  # fmt: skip


def monotone(*students: str, metric: str = ACCURACY, falling: bool = False) -> list[Comparison]:
    """A metric rises from each student to the next, or falls: one clause for each pair of neighbours.

    Raises:
        UserError: there are fewer than two, or there is no such metric.

    Example:
        >>> [term.describe({}) for term in monotone("small", "medium", "large")]
        ["medium's accuracy is above small's", "large's accuracy is above medium's"]
    """
    if len(students) < 2:
        raise UserError(f"monotone needs at least two students, got {len(students)}.")
    return [(below if falling else above)(after, before, metric) for before, after in itertools.pairwise(students)]


@dataclass(frozen=True)
class Correlation(Term):
    """Spearman's correlation of two metrics over students, at the last epoch of each seed. `correlates` makes it."""

    first: str
    second: str
    limit: float
    at_most: bool
    who: Who
    label: str = "spearman"
    when = AT_THE_END

    @property
    def needs(self) -> tuple[str, ...]:
        """The students and groups that it is about."""
        return self.who.names

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:  # noqa: ARG002
        """One claim about all of them."""
        students = self.who.students(curves)
        pair = (np.stack([curves.last(s, metric) for s in students], axis=1) for metric in (self.first, self.second))
        found = np.array([spearman(*both) for both in zip(*pair, strict=True)])
        margin = self.limit - found if self.at_most else found - self.limit
        mean = {"": f"mean {means({'': found})['']}"}
        return [curves.claim(self.label, self._words, DIFFERENCE, {"the limit": margin}, mean, tie_holds=True)]

    @property
    def _words(self) -> str:
        side = "at most" if self.at_most else "at least"
        return f"Spearman's correlation of {WORDS[self.first]} and {WORDS[self.second]} is {side} {self.limit:g}"

    def describe(self, groups: Groups) -> str:
        """The statement in words."""
        return f"{self._words}, over {self.who.words(groups)}"


def correlates(first: str, second: str, students: Whom = EVERYONE, *, at_most: float | None = None,
               at_least: float | None = None, label: str = "spearman") -> Correlation:  # fmt: skip
    """Spearman's rank correlation of two metrics over students is at most, or at least, a limit.

    Raises:
        UserError: there is no such metric, or not exactly one limit from -1 to 1.

    Example:
        >>> correlates("train_loss", "val_accuracy", at_most=-0.8).describe({})
        "Spearman's correlation of training loss and accuracy is at most -0.8, over every model"
    """
    limits = [limit for limit in (at_most, at_least) if limit is not None]
    if len(limits) != 1 or not -1 <= limits[0] <= 1:
        raise UserError("correlates needs either at_most= or at_least=, a number from -1 to 1.")
    who = Who.of(students)
    return Correlation(check_metric(first), check_metric(second), limits[0], at_most is not None, who, label)


TARGET, LOWEST, AREA = "target", "lowest", "area"
OWN_SHARE = 0.9  # of a student's own improvement


@dataclass(frozen=True)
class Race(Term):
    """Who gets a loss down first, with other clocks and other goals beside it for information. `sooner` makes it."""

    who: Who
    rivals: Who
    metric: str
    by: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The students and groups that it is about."""
        return (*self.who.names, *self.rivals.names)

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:
        """What is judged by, a claim for each student, then what is told for information."""
        races = [self._race(curves, student) for student in self.who.students(curves)]
        steps = np.array(curves.epochs, dtype=np.float64)
        students = dict.fromkeys([*self.who.students(curves), *self.rivals.students(curves)])
        epochs = {s: np.broadcast_to(steps, (len(curves.seeds), len(steps))) for s in students}
        found = [race.area(steps) for race in races] if self.by == AREA else []
        found += [race.run("epochs", epochs, LOWEST, gating=True) for race in races] if self.by == LOWEST else []
        found += [race.run("epochs", epochs, TARGET, gating=self.by == TARGET) for race in races]
        for clock, times in _clocks(curves, costs, epochs).items():
            found += [race.run(clock, times, TARGET, gating=False) for race in races]
        return found + [claim for race in races for claim in (race.first(), race.own(steps))]

    def _race(self, curves: Curves, student: str) -> _Race:
        rivals, words = _others(self.rivals, curves, student)
        return _Race(curves, student, rivals, curves.name(words), self.metric)

    def describe(self, groups: Groups) -> str:
        """The statement in words."""
        one, others, loss = self.who.words(groups), self.rivals.words(groups), WORDS[self.metric]
        if self.by == AREA:
            return f"{one}'s log {loss} is below {others}'s, on average over the run"
        goal = f"{loss} that they ever have" if self.by == LOWEST else f"of their last {loss}es"
        return f"{one} needs fewer epochs than {others} to the lowest {goal}"


@dataclass(frozen=True)
class _Race:
    """One student against its rivals, who are called ``others``."""

    curves: Curves
    student: str
    rivals: tuple[str, ...]
    others: str
    metric: str

    @property
    def students(self) -> tuple[str, ...]:
        return (self.student, *self.rivals)

    def run(self, clock: str, times: Mapping[str, Floats], goal: str, *, gating: bool) -> Claim:
        """A claim about who reaches a loss first on a clock, from ``times`` (S, E) of every student.

        A curve that never gets there is censored at the last of its times: the times compared are restricted to the
        training that there was. In epochs that is a bound that still speaks against a student, as some rival gets there
        by then; on other clocks it is no number.
        """
        losses = {s: self.curves.curve(s, self.metric) for s in self.students}
        lows = [losses[s].min(axis=1) if goal == LOWEST else losses[s][:, -1] for s in self.rivals]
        target = np.min(np.stack(lows), axis=0)
        reached = {s: np.array([time_to_target(*run) for run in zip(times[s], losses[s], target, strict=True)])
                   for s in self.students}  # fmt: skip
        bounded = {s: np.minimum(reached[s], times[s][:, -1]) for s in self.students}
        counts = clock == "epochs"
        if counts:
            margins = {s: bounded[s] - bounded[self.student] for s in self.rivals}
            to = number(float(target.mean()), ".3g", missing="no number")
            says = f"needs fewer epochs than {self.others} to a {WORDS[self.metric]} of {to}"
        else:  # epochs of one student cost more than another's: a bound at the last epoch could speak for either side
            own = np.where(np.isinf(reached[self.student]), np.nan, np.log(bounded[self.student]))
            margins = {s: np.log(bounded[s]) - own for s in self.rivals}
            says = f"needs fewer {clock} to the same loss{' (epochs x FLOPs a sample)' if clock == 'FLOPs' else ''}"
        never = {s: np.isinf(reached[s]) for s in self.students}
        shown = means(self.curves.named(bounded), ".3g")
        return self.curves.claim(
            f"{self.student}-{LOWEST if goal == LOWEST else clock.lower()}",
            f"{self.curves.name(self.student)} {says}",
            EPOCHS if counts else RATIO,
            self.curves.named(margins),
            {name: f"{'> ' if late.any() else ''}{shown[name]}" for name, late in self.curves.named(never).items()},
            gating=gating,
            contradicted=counts and bool(never[self.student].all()),
            note=f"not reached within epoch {self.curves.epochs[-1]} by every seed"
            if never[self.student].any()
            else "",
        )

    def area(self, steps: Floats) -> Claim:
        """A claim about the mean log loss over the run."""
        areas = {
            s: np.array([log_area(steps, run) for run in self.curves.curve(s, self.metric)]) for s in self.students
        }
        margins = {s: areas[s] - areas[self.student] for s in self.rivals}
        says = f"has a lower {WORDS[self.metric]} than {self.others}, in its geometric mean over the run"
        return self._claim("area", says, RATIO, margins, {s: np.exp(area) for s, area in areas.items()}, gating=True)

    def first(self) -> Claim:
        """Who is ahead after the first epoch, for information."""
        losses = {s: self.curves.curve(s, self.metric)[:, 0] for s in self.students}
        margins = {s: lead(self.metric, losses[self.student], losses[s]) for s in self.rivals}
        says = f"is ahead of {self.others} after epoch {self.curves.epochs[0]} already"
        return self._claim("first", says, RATIO, margins, losses)

    def own(self, steps: Floats) -> Claim:
        """Epochs to a share of each student's own improvement, for information."""
        times = {s: np.array([time_to_share(steps, run, OWN_SHARE) for run in self.curves.curve(s, self.metric)])
                 for s in self.students}  # fmt: skip
        says = (
            f"needs fewer epochs than {self.others} to {OWN_SHARE:.0%} of its own improvement (of the logarithm of its "
            f"loss, from epoch {self.curves.epochs[0]})"
        )
        margins = {s: times[s] - times[self.student] for s in self.rivals}
        return self._claim("own", says, EPOCHS, margins, times, ".2f")

    def _claim(self, kind: str, says: str, scale: str, margins: Mapping[str, Floats], values: Mapping[str, Floats],
              spec: str = ".3f", *, gating: bool = False) -> Claim:  # fmt: skip
        sentence, shown = f"{self.curves.name(self.student)} {says}", means(self.curves.named(values), spec)
        return self.curves.claim(
            f"{self.student}-{kind}", sentence, scale, self.curves.named(margins), shown, gating=gating
        )


def _clocks(curves: Curves, costs: Costs, epochs: Mapping[str, Floats]) -> dict[str, Mapping[str, Floats]]:
    """Name of each further clock that all students have -> their times (S, E)."""
    flops = {s: costs.get(curves.name(s)) or 0.0 for s in epochs}
    clocks: dict[str, Mapping[str, Floats]] = {"FLOPs": {s: epochs[s] * cost for s, cost in flops.items() if cost > 0}}
    if curves.epochs == tuple(range(1, len(curves.epochs) + 1)):  # else some epochs' seconds are not known
        # the median, as one epoch that stalled on a shared machine would decide a sum
        typical = {s: np.median(curves.curve(s, "seconds"), axis=1, keepdims=True) for s in epochs}
        seconds = {s: epoch * np.array(curves.epochs) for s, epoch in typical.items()}
        clocks["seconds"] = {s: total for s, total in seconds.items() if (total > 0).all()}
    return {clock: times for clock, times in clocks.items() if len(times) == len(epochs)}


def sooner(subject: Whom, rivals: Whom, metric: str = LOSS, *, by: str = TARGET) -> Race:
    """Each student of the subject gets its loss down in fewer epochs than every rival.

    Args:
        subject: students, groups or tags, as in `below`.
        rivals: likewise; each pair is tested.
        metric: a loss.
        by: what decides. ``target``: epochs to the rivals' lowest last loss; ``lowest``: epochs to the lowest loss that
            any rival has at any epoch; ``area``: the mean over the run of the ratio of the losses. Whichever does, the
            epochs, seconds and FLOPs to the target are told for information, with who is ahead after the first epoch,
            and epochs to 90% of each student's own improvement.

    Raises:
        UserError: ``by`` is something else, the metric is no loss, or `any_of` or `best_of` is asked for.

    Example:
        >>> sooner("shallow", "deep").describe({"shallow": ("linear",), "deep": ("mlp",)})
        'every shallow model needs fewer epochs than every deep model to the lowest of their last training losses'
    """
    if by not in (TARGET, LOWEST, AREA):
        raise unknown("way to tell who is sooner", by, (TARGET, LOWEST, AREA))
    if metric not in history.LOSSES:
        raise unknown("loss", metric, history.LOSSES)
    who, others = Who.of(subject), Who.of(rivals)
    if (who.which, others.which) != (EVERY, EVERY):
        raise UserError("sooner compares every student with every rival; any_of and best_of are not for it.")
    return Race(who, others, metric, by)
