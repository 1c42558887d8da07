"""The FINDINGS table: pure functions from the history frame to verdicts.

The sentences are those of "Knowledge Distillation of ResNet18" (fxnnxc's blog, 2023-04-19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvbench.core.recipe import SCHEDULED
from kvbench.findings import claims, convergence
from kvbench.findings.clauses import FAILS, HOLDS, UNDECIDED, Claim, Clause, Evidence, decide, evaluate_claim
from kvbench.findings.curves import Curves, curves
from kvbench.results import history
from kvbench.stats.significance import SIGN, holm
from kvbench.utils.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

MIXED = "mixed"
BY_SIGN = " by sign (one seed, no test)"
FAMILY_ERROR = 0.01  # chance that any of a run's judgements is wrongly decided, over all of them together
RECIPES = {SCHEDULED: "StepLR", "": "constant lr"}  # prefix of a configuration -> name of its recipe
BOTH = "StepLR against constant lr"

Costs = Mapping[str, float]  # configuration -> FLOPs per sample


@dataclass(frozen=True)
class Finding:
    """A sentence about configurations, with the function that judges it.

    Args:
        id: its name in options and files.
        sentence: the source's.
        judged_as: the same, made exact.
        students: what it needs, of each recipe that it is judged on.
        claims: from curves and costs to what is claimed.
        compares_recipes: judged once, across both recipes, instead of once for each.
    """

    id: str
    sentence: str
    judged_as: str
    students: tuple[str, ...]
    claims: Callable[[Curves, Costs], list[Claim]]
    compares_recipes: bool = False

    def needs(self) -> dict[str, tuple[str, ...]]:
        """Name of each recipe that it is judged on -> the configurations needed for that."""
        blocks = {name: tuple(prefix + student for student in self.students) for prefix, name in RECIPES.items()}
        return {BOTH: tuple(c for block in blocks.values() for c in block)} if self.compares_recipes else blocks

    def lacks(self, histories: pd.DataFrame) -> dict[str, list[str]]:
        """Name of each recipe that can't be judged -> what ``histories`` lack for it; empty if all can be."""
        lacking = {}
        present = history.configurations(histories)
        for recipe, needed in self.needs().items():
            if missing := [name for name in needed if name not in present]:
                lacking[recipe] = missing
            elif not curves(histories, needed, "").epochs:
                lacking[recipe] = ["a seed and an epoch that all its configurations have"]
        return lacking


@dataclass(frozen=True)
class Judgement:
    """A finding's verdict for one recipe, with the clauses behind it."""

    finding: Finding
    recipe: str
    clauses: tuple[Clause, ...]
    notes: tuple[str, ...] = ()

    @property
    def gating(self) -> tuple[Clause, ...]:
        """The clauses that count."""
        return tuple(clause for clause in self.clauses if clause.gating)

    @property
    def verdict(self) -> str:
        """``holds`` if all clauses hold, ``fails`` if all fail, ``mixed`` if some do either, else ``undecided``."""
        verdicts = {clause.verdict for clause in self.gating}
        if len(verdicts) == 1:
            return verdicts.pop()
        return MIXED if {HOLDS, FAILS} <= verdicts else UNDECIDED

    @property
    def tested(self) -> bool:
        """Whether there was a test: one seed has a sign and no test."""
        return any(clause.method != SIGN for clause in self.gating)

    @property
    def summary(self) -> str:
        """The verdict with its count: ``mixed: 4 of 8 clauses hold, 3 fail, 1 undecided``."""
        counts = {v: sum(clause.verdict == v for clause in self.gating) for v in (HOLDS, FAILS, UNDECIDED)}
        rest = [f"{counts[FAILS]} fail"] * bool(counts[FAILS]) + [f"{counts[UNDECIDED]} undecided"] * bool(
            counts[UNDECIDED]
        )
        held = f"{counts[HOLDS]} of {len(self.gating)} clauses hold"
        return f"{self.verdict}{'' if self.tested else BY_SIGN}: {', '.join([held, *rest])}"

    def describe(self) -> str:
        """The sentence, the verdict and every clause with its numbers, over several lines."""
        head = f"{self.finding.id} ({self.recipe}): {self.summary}\n  the source says: {self.finding.sentence}"
        lines = [f"  judged as: {self.finding.judged_as}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join([head, *lines, *(f"  {clause.describe()}" for clause in self.clauses)])


def finding(name: str) -> Finding:
    """Look a finding up; raises `UserError` naming the valid ones."""
    if name not in FINDINGS:
        raise unknown("finding", name, FINDINGS)
    return FINDINGS[name]


def judge(
    histories: pd.DataFrame, costs: Costs | None = None, chosen: Iterable[Finding] | None = None
) -> list[Judgement]:
    """Judge findings on every recipe whose configurations are all there; `Finding.lacks` tells about the others.

    All judgements of a call are one family: they share `FAMILY_ERROR` by Holm's procedure, each with the p-value of
    its better side. A judgement holds as a whole where all its clauses do (intersection-union), so its clauses are
    tested at its own level; that one of them fails is tested at that level divided by their number.

    Args:
        histories: a history frame with any number of seeds and epochs. Margins are paired by seed; the last epoch is
            the last that all needed runs have.
        costs: FLOPs per sample of each configuration, to report the time to the target in FLOPs as well.
        chosen: rows of `FINDINGS`; None: all.
    """
    prefixes = {name: prefix for prefix, name in RECIPES.items()}
    finest = FAMILY_ERROR / sum(len(row.needs()) for row in FINDINGS.values())
    weighed: list[tuple[Finding, str, tuple[str, ...], list[Evidence]]] = []
    for finding in FINDINGS.values() if chosen is None else chosen:
        lacking = finding.lacks(histories)
        for recipe, needed in finding.needs().items():
            if recipe not in lacking:
                taken = curves(histories, needed, prefixes.get(recipe, ""))
                made = finding.claims(taken, costs or {})
                siblings = sum(claim.gating for claim in made)
                evidence = [evaluate_claim(claim, finest / siblings / len(claim.rivals)) for claim in made]
                weighed.append((finding, recipe, taken.notes, evidence))
    levels = holm([_p_value(evidence) for *_, evidence in weighed], FAMILY_ERROR)
    judged = []
    for (finding, recipe, notes, evidence), level in zip(weighed, levels, strict=True):
        siblings = sum(e.claim.gating for e in evidence)
        clauses = tuple(decide(e, level, siblings if e.claim.gating else 1) for e in evidence)
        judged.append(Judgement(finding, recipe, clauses, notes))
    return judged


def _p_value(evidence: Iterable[Evidence]) -> float:
    """Of a judgement: that all its clauses hold, or that one fails, whichever is the surer."""
    gating = [e for e in evidence if e.claim.gating]
    known = [e for e in gating if e.test is not None]
    holds = max(e.holds for e in gating) if len(known) == len(gating) else 1.0
    return min(holds, min((e.fails for e in known), default=1.0) * len(gating))


FINDINGS = {
    row.id: row
    for row in [
        Finding(
            "simple-converges-faster",
            "the simpler model has significantly faster optimization",
            "each simple model reaches the best memory model's last training loss in fewer epochs than every memory "
            "model",
            claims.SIMPLE + claims.MEMORY,
            convergence.simple_converges_faster,
        ),
        Finding(
            "simple-is-best",
            "best performance with Models 1 and 2",
            "at the last epoch each simple model has a lower training loss and a higher accuracy than every memory "
            "model",
            claims.SIMPLE + claims.MEMORY,
            claims.simple_is_best,
        ),
        Finding(
            "memory-hardly-trains",
            "Key-value memory is hardly trained",
            f"at the last epoch each memory model's training loss is at least {claims.HARDLY:g}x the best simple "
            "one's, and its accuracy is below every simple one's",
            claims.SIMPLE + claims.MEMORY,
            claims.memory_hardly_trains,
        ),
        Finding(
            "gelu-beats-relu",
            "GELU is better than ReLU",
            "at the last epoch Model3 beats Model5 and Model4 beats Model6, on training loss and accuracy",
            ("Model3", "Model4", "Model5", "Model6"),
            claims.gelu_beats_relu,
        ),
        Finding(
            "dense-beats-residual",
            "residual is worse than dense, not by much",
            "at the last epoch Model7 is not better than Model3 and Model4 (a tie is not better), its training loss "
            f"is at most {claims.RESIDUAL_LOSS:g}x theirs, its accuracy at most {claims.RESIDUAL_ACCURACY:g} lower",
            ("Model3", "Model4", "Model7"),
            claims.dense_beats_residual,
        ),
        Finding(
            "frozen-memory-suffices",
            "a frozen memory is no worse than a trained one (in its tables, not in its prose)",
            "at the last epoch Model4 against Model3, and Model6 against Model5: training loss at most "
            f"{claims.FROZEN_LOSS:g}x, accuracy at most {claims.FROZEN_ACCURACY:g} lower",
            ("Model3", "Model4", "Model5", "Model6"),
            claims.frozen_memory_suffices,
        ),
        Finding(
            "loss-predicts-accuracy",
            "accuracy correlates with training loss",
            "Spearman's correlation of training loss and accuracy over the seven configurations of a recipe, at the "
            f"last epoch, is at most {claims.CORRELATION:g}",
            claims.SIMPLE + claims.MEMORY,
            claims.loss_predicts_accuracy,
        ),
        Finding(
            "scheduler-helps",
            "lr_scheduler is a good way",
            "at the last epoch each student has a lower training loss and a higher accuracy with StepLR than without",
            claims.SIMPLE + claims.MEMORY,
            claims.scheduler_helps,
            compares_recipes=True,
        ),
    ]
}
