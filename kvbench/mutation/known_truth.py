"""Wrong verdicts, counted: findings whose truth is known, judged as a run's are, on margins that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvbench.findings.clauses import DIFFERENCE, Claim, Verdict
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.judge import FAMILY_ERROR, Judgement, judge
from kvbench.mutation.side_by_side import side_by_side
from kvbench.results import history
from kvbench.stats.intervals import Floats
from kvbench.stats.significance import power
from kvbench.utils.progress import OnProgress, Progress, ignore

JUDGEMENTS = 15  # of a run of the first study: they share one error rate
SURE = 30.0  # standard deviations between seeds: an effect that no run misses
CLAUSES = 3
RUN_SEEDS = 5
PART = 20  # runs at a time
Noise = Callable[[np.random.Generator, int, int], Floats]  # of so many seeds and clauses: (S, C), symmetric about 0


@dataclass(frozen=True)
class World:
    """Findings whose truth is known.

    Args:
        name: in words.
        means: a row a finding, in it the mean of each clause's margins in standard deviations between seeds: above 0
            the clause is true, below 0 false, and at 0 neither may be concluded.
        noise: what seeds do to the margins of all clauses; None: independent normals.
    """

    name: str
    means: tuple[tuple[float, ...], ...]
    noise: Noise | None = None


@dataclass(frozen=True)
class Counted:
    """How the runs of a world were judged.

    Args:
        name: the world's.
        runs: how many.
        wrong: runs in which a judgement was decided the wrong way.
        decided: judgements of all runs that came out as they are.
        decidable: judgements of all runs that have a truth.
    """

    name: str
    runs: int
    wrong: int
    decided: int
    decidable: int

    def plus(self, other: Counted) -> Counted:
        """Both together."""
        sums = (getattr(self, name) + getattr(other, name) for name in ("runs", "wrong", "decided", "decidable"))
        return Counted(self.name, *sums)


def worlds(seeds: int, recorded: Sequence[Judgement] = ()) -> list[World]:
    """The worlds that are tried: none, sure and borderline effects, and recorded margins under permuted labels.

    A borderline effect is one that ``seeds`` see with a chance of one half at the first level of Holm's procedure.
    """
    edge = borderline(seeds)
    found = [
        World("no effect in any finding", ((0.0,),) * JUDGEMENTS),
        World("no effect in ten findings, sure effects in five", ((0.0,),) * 10 + ((SURE,),) * 5),
        World("one clause without effect in each finding, all others sure",
              ((SURE,) * (CLAUSES - 1) + (0.0,),) * JUDGEMENTS),
        World("one borderline false clause in each finding, all others sure",
              ((SURE,) * (CLAUSES - 1) + (-edge,),) * JUDGEMENTS),
        World("borderline effects in all findings", ((edge,),) * JUDGEMENTS),
        World("sure effects in all findings, half of them the wrong way",
              ((SURE,) * CLAUSES,) * 8 + ((-SURE,) * CLAUSES,) * 7),
    ]  # fmt: skip
    if recorded:
        means = tuple((0.0,) * len(judgement.gating) for judgement in recorded)
        found.append(World("no effect: recorded margins with permuted labels", means, permuted(recorded)))
    return found


def borderline(seeds: int) -> float:
    """The mean, in standard deviations, that a t test of ``seeds`` sees with a chance of one half."""
    from scipy.optimize import brentq

    level = FAMILY_ERROR / JUDGEMENTS
    return float(brentq(lambda mean: power(mean, 1, seeds - 1, seeds**-0.5, level) - 0.5, 0, 100))


def permuted(recorded: Sequence[Judgement]) -> Noise:
    """Margins of a reference's clauses, of seeds drawn from it, where at each seed all labels change places or none do.

    What distributions and dependences there really are stays; that no student is better than another is made true.
    """
    clauses = [clause for judgement in recorded for clause in judgement.gating]
    every = sorted(set.intersection(*({*clause.margins} for clause in clauses)))
    margins = np.array([[clause.margins[seed] for clause in clauses] for seed in every])
    margins = margins - margins.mean(axis=0)

    def noise(draw: np.random.Generator, seeds: int, _clauses: int) -> Floats:
        chosen = draw.choice(len(every), seeds, replace=False)
        return np.asarray(margins[chosen] * draw.choice([-1.0, 1.0], (seeds, 1)))

    return noise


def simulate(world: World, runs: int, seeds: int, first: int = 0, error: float = FAMILY_ERROR) -> Counted:
    """Judge the findings of a world again and again; ``first`` numbers the first run, which seeds its draws."""
    drawn: list[list[Claim]] = []
    rows = [{"configuration": "it", "seed": 0, "epoch": 1, "train_loss": 1.0, "val_accuracy": 0.5}]
    found = {
        name: Finding(name, "", lambda *_, place=place: drawn[place], students=("it",))
        for place, name in enumerate(map(str, range(len(world.means))))
    }
    design, histories = Design("known", {"one": {"it": "it"}}, findings=found), history.frame(rows)
    columns = [mean for row in world.means for mean in row]
    wrong = decided = 0
    for run in range(runs):
        draw = np.random.default_rng(first + run)
        noise = world.noise(draw, seeds, len(columns)) if world.noise else draw.normal(size=(seeds, len(columns)))
        drawn[:] = _claims(world, np.array(columns) + noise)
        judged = judge(histories, design, error=error)
        wrong += any(_wrong(one, means) for one, means in zip(judged, world.means, strict=True))
        decided += sum(one.verdict == _truth(means) for one, means in zip(judged, world.means, strict=True))
    return Counted(world.name, runs, wrong, decided, runs * sum(_truth(means) is not None for means in world.means))


def count_all(
    runs: int, recorded: Sequence[Judgement], workers: int = 0, on_progress: OnProgress = ignore
) -> list[Counted]:
    """Judge so many runs of each world, side by side; the numbers depend on no number of workers.

    Args:
        runs: of each world.
        recorded: the judgements of a reference, whose margins are permuted.
        workers: as for `kvbench.mutation.side_by_side.side_by_side`.
        on_progress: is told of runs that are done.
    """
    known = worlds(RUN_SEEDS, recorded)
    parts = [(place, first, min(PART, runs - first)) for first in range(0, runs, PART) for place in range(len(known))]
    found = [Counted(world.name, 0, 0, 0, 0) for world in known]
    done = 0
    with side_by_side(workers if parts else 1) as each:
        for place, part in each(_part, [(*one, recorded) for one in parts]):
            found[place] = found[place].plus(part)
            done += part.runs
            on_progress(Progress("findings whose truth is known", done, runs * len(known), "run"))
    return found if runs else []


def _part(place: int, first: int, runs: int, recorded: Sequence[Judgement]) -> tuple[int, Counted]:
    return place, simulate(worlds(RUN_SEEDS, recorded)[place], runs, RUN_SEEDS, first)


def _claims(world: World, margins: Floats) -> list[list[Claim]]:
    seeds, place, found = tuple(range(len(margins))), 0, []
    for means in world.means:
        mine = margins[:, place : place + len(means)]
        place += len(means)
        found.append([Claim(str(i), "", DIFFERENCE, seeds, mine[:, [i]], ("",), {}) for i in range(len(means))])
    return found


def _truth(means: Sequence[float]) -> Verdict | None:
    """What a finding is: it holds if all its clauses do and fails if none does; None: neither may be concluded."""
    if min(means) > 0:
        return Verdict.HOLDS
    return Verdict.FAILS if max(means) < 0 else None


def _wrong(judged: Judgement, means: Sequence[float]) -> bool:
    """Whether a finding is said to hold though a clause is not true, or a clause to fail that is not false."""
    holds = judged.verdict == Verdict.HOLDS and min(means) <= 0
    return holds or any(
        clause.verdict == Verdict.FAILS and mean >= 0 for clause, mean in zip(judged.clauses, means, strict=True)
    )
