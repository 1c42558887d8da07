"""How often judgements go the wrong way, over all findings together, on margins made for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from kvbench.findings.clauses import DIFFERENCE, Claim
from kvbench.findings.curves import Curves, Runs
from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.judge import Judgement, judge
from kvbench.results import history
from tests.support.trials import trials

ERROR = 0.05  # instead of 1%, so that fewer trials tell
DESIGN = Design("drawn", {"one": {"it": "it"}})
TRIALS = trials(400)
MOST = int(stats.binom.ppf(1 - 1e-4, TRIALS, ERROR))


@dataclass
class World:
    """Findings whose margins are drawn from normals with these means, a row a finding, a column a clause."""

    means: Sequence[Sequence[float]]
    seeds: int
    tie_holds: bool = False
    together: bool = False  # one draw for all: the margins depend on each other as much as can be
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def judged(self) -> Iterator[list[Judgement]]:
        """The judgements of every trial."""
        nothing = history.frame([])
        shared = np.zeros((self.seeds, 1))

        def claims(means: Sequence[float]) -> list[Claim]:
            made = []
            for place, mean in enumerate(means):
                margins = mean + (shared if self.together else self.draw.normal(size=(self.seeds, 1)))
                seeds = tuple(range(self.seeds))
                made.append(Claim(str(place), "", DIFFERENCE, seeds, margins, ("",), {}, tie_holds=self.tie_holds))
            return made

        chosen = [
            Finding(str(place), "", lambda *_, means=means: claims(means)) for place, means in enumerate(self.means)
        ]
        for _ in range(TRIALS):
            shared = self.draw.normal(size=(self.seeds, 1))
            yield judge(nothing, DESIGN, chosen=chosen, error=ERROR)


@pytest.fixture(autouse=True)
def _an_error_that_shows_and_no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margins come from no curves here."""

    monkeypatch.setattr(Runs, "curves", lambda _, groups, names, others=None: Curves(names, (0,), (1,), {}))


SURE, NULL = 30.0, 0.0


@pytest.mark.parametrize(("seeds", "together"), [(4, False), (9, True)])  # by t and by sign flips
def test_a_finding_is_rarely_confirmed_where_one_of_its_clauses_has_no_effect(seeds: int, together: bool) -> None:
    # the hardest case: all other clauses are sure, so that this one alone decides; three findings are sure throughout
    world = World([[SURE, NULL]] * 6 + [[SURE]] * 3, seeds, together=together)
    wrong = 0
    for judged in world.judged():
        assert [judgement.verdict for judgement in judged[6:]] == ["holds"] * 3
        wrong += any(judgement.verdict == "holds" for judgement in judged[:6])
    assert wrong <= MOST


@pytest.mark.parametrize(("seeds", "together"), [(4, False), (9, True)])
def test_a_finding_is_rarely_contradicted_where_none_of_its_clauses_fails(seeds: int, together: bool) -> None:
    # ties belong to the sentence here, so that a mean of 0 does not contradict it
    world = World([[NULL] * 3] * 6 + [[SURE]] * 3, seeds, tie_holds=True, together=together)
    wrong = sum(any(c.verdict == "fails" for j in judged for c in j.clauses) for judged in world.judged())
    assert wrong <= MOST


def test_a_finding_that_stands_alone_has_all_of_the_error() -> None:
    wrong = sum(judged[0].verdict == "holds" for judged in World([[NULL]], 9).judged())
    rate = int(ERROR * 2**9) / 2**9
    assert stats.binom.ppf(1e-4, TRIALS, rate) <= wrong <= stats.binom.ppf(1 - 1e-4, TRIALS, rate)


def test_an_effect_is_confirmed_and_its_opposite_contradicted() -> None:
    judged = next(World([[3.0, 3.0], [-3.0, 3.0], [-3.0, -3.0]], 15).judged())
    assert [judgement.verdict for judgement in judged] == ["holds", "mixed", "fails"]


def with_p(*p_values: float) -> Finding:
    """A finding whose clauses hold with these p-values by t of four seeds; negative ones are those of failing."""
    base = np.array([-1.0, 1.0, -0.5, 0.5])
    error = base.std(ddof=1) / 2
    margins = [np.sign(p) * (base + error * stats.t.isf(abs(p), 3)) for p in p_values]
    made = [
        Claim(str(place), "", DIFFERENCE, (0, 1, 2, 3), column[:, None], ("",), {})
        for place, column in enumerate(margins)
    ]
    return Finding(str(p_values), "", lambda *_: made)


@pytest.mark.parametrize(
    ("p_values", "verdict"),
    [
        ([0.0001, 0.04], "holds"),  # as sure as its least sure clause: 0.04
        ([-0.01, 0.9, 0.9, 0.9], "undecided"),  # 4 * 0.01, as any of four might fail by chance
        ([0.0001, -0.02], "mixed"),  # 2 * 0.02
    ],
)
def test_a_finding_takes_its_place_by_its_least_sure_clause_or_by_a_failure_among_all(
    p_values: list[float], verdict: str
) -> None:
    other, one = judge(history.frame([]), DESIGN, chosen=[with_p(0.02), with_p(*p_values)], error=ERROR)
    assert other.clauses[0].level == ERROR / 2  # 0.02 comes first
    assert {clause.level for clause in one.clauses} == {ERROR}
    assert one.verdict == verdict
    # with a surer one beside it, the same finding comes too late
    _, surer = judge(history.frame([]), DESIGN, chosen=[with_p(0.02), with_p(*[p / 10 for p in p_values])], error=ERROR)
    assert {clause.level for clause in surer.clauses} == {ERROR / 2}
