from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kvbench.findings.judge import FAMILY_ERROR, Judgement, judge
from kvbench.reference.changes import Change, verdict_changes
from kvbench.reference.store import Reference, load
from kvbench.reference.update import update
from kvbench.reference.verdicts import frame, read, write
from kvbench.results import history
from kvbench.stats.intervals import prediction_interval
from tests.support import DESIGN
from tests.support.references import MEMORY, UPDATE, edit, memory_runs
from tests.support.students import student_runs


@pytest.fixture
def recorded(memory_folder: Path) -> Reference:
    return load(memory_folder, "fractals", DESIGN)


def gelu(frame: pd.DataFrame) -> list[Judgement]:
    return judge(frame, DESIGN, chosen=[DESIGN.finding("gelu-beats-relu")])


def change(frame: pd.DataFrame, known: Reference) -> Change:
    """How Model3's loss against Model5's differs from the recorded verdict."""
    (found,) = [c for c in verdict_changes(known, gelu(frame), MEMORY) if c.clause == "Model3-Model5-loss"]
    return found


def relu(frame: pd.DataFrame, factor: float, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """The same frame with Model5's loss at some seeds (None: all) multiplied."""
    frame = frame.copy()
    chosen = frame["seed"].isin(history.seeds(frame) if seeds is None else seeds)
    frame.loc[chosen & (frame["configuration"] == "Model5"), "train_loss"] *= factor
    return frame


def test_the_same_verdicts_are_no_change(recorded: Reference) -> None:
    assert verdict_changes(recorded, judge(memory_runs(), DESIGN), MEMORY) == []


def test_a_clause_that_turns_fails_the_run(recorded: Reference) -> None:
    found = change(relu(memory_runs(), 0.5), recorded)
    assert (found.status, found.failed, found.unconfirmed) == ("changed", True, False)
    assert "gelu-beats-relu (constant lr), Model3-Model5-loss: recorded as holds, now fails" in found.describe()
    assert "0.200 (Model5)" in found.describe()
    assert UPDATE in found.describe()


def test_a_clause_that_fresh_seeds_can_not_tell_asks_for_more(recorded: Reference) -> None:
    close = relu(memory_runs(seeds=3, noise=0.2, first=7), 0.75)
    found = change(close, recorded)
    assert (found.status, found.failed, found.unconfirmed) == ("not confirmed", False, True)
    clause = gelu(close)[0].clauses[0]
    assert clause.needed is not None
    assert clause.needed > 5
    assert found.describe().endswith(
        f"add seeds: pytest benchmarks/ --kvbench-workload fractals --kvbench-seeds {clause.needed}"
    )


def test_the_seeds_asked_for_are_more_than_there_were_even_if_none_can_be_counted(recorded: Reference) -> None:
    # Model5 is at Model3's loss but for alternating signs: no count of seeds would tell
    level = relu(memory_runs(seeds=4, noise=0.0), 0.75)
    found = change(relu(relu(level, 1.1, [0, 2]), 1 / 1.1, [1, 3]), recorded)
    assert found.status == "not confirmed"
    assert "more than 1000 seeds would decide this one" in found.describe()
    assert found.describe().endswith("--kvbench-seeds 5")


def test_one_seed_does_not_overturn_several(recorded: Reference) -> None:
    assert change(relu(memory_runs(seeds=1), 0.5), recorded).status == "not confirmed"


def test_one_seed_overturns_one(tmp_path: Path) -> None:
    update(tmp_path, "fractals", DESIGN, memory_runs(seeds=1), {})
    assert change(relu(memory_runs(seeds=1), 0.5), load(tmp_path, "fractals", DESIGN)).status == "changed"


def test_a_clause_without_a_number_fails(recorded: Reference) -> None:
    found = change(relu(memory_runs(), math.nan), recorded)
    assert found.failed
    assert "a number is missing" in found.describe()


@pytest.mark.parametrize(
    "missing",
    [
        [0],
        [0, 1],
        [0, 1, 2],
    ],
)
def test_a_clause_fails_however_many_seeds_have_no_number(recorded: Reference, missing: list[int]) -> None:
    found = change(relu(memory_runs(seeds=3), math.nan, missing), recorded)
    assert (found.status, found.failed) == ("changed", True)


def test_a_missing_number_fails_whatever_was_recorded(recorded: Reference) -> None:
    found = change(relu(memory_runs(), math.nan), undecided(recorded))
    assert found.failed


def undecided(recorded: Reference) -> Reference:
    """The same reference with that verdict recorded as undecided."""
    edit(recorded.folder / "verdicts.csv", "Model3-Model5-loss,holds", "Model3-Model5-loss,undecided")
    return load(recorded.folder.parent, "fractals", DESIGN)


@pytest.mark.parametrize(
    ("factor", "kind", "now"),
    [(1.0, "noted", "holds"), (1.01, "noted", "holds"), (1.5, "changed", "holds"), (0.5, "changed", "fails")],
)
def test_what_was_undecided_fails_only_where_the_margin_moved(
    recorded: Reference, factor: float, kind: str, now: str
) -> None:
    found = change(relu(memory_runs(first=50), factor), undecided(recorded))
    assert (found.status, found.failed) == (kind, kind == "changed")
    assert f"recorded as undecided, now {now}" in found.describe()
    assert (UPDATE in found.describe()) == found.failed


def test_the_margin_moved_where_it_leaves_the_prediction_interval_of_the_recorded_ones(recorded: Reference) -> None:
    known = undecided(recorded)
    margins = known.judgements[0].clauses[0].margins.values()
    level = 1 - FAMILY_ERROR / sum(len(judgement.gating) for judgement in known.judgements)
    _, high = prediction_interval(list(margins), 3, level)
    fresh = memory_runs(seeds=3, noise=1e-7)
    for step, kind in ((-1e-4, "noted"), (1e-4, "changed")):
        # nearly without noise the fresh margin is log 4/3
        assert change(relu(fresh, math.exp(high + step) / (4 / 3)), known).status == kind


def test_one_seed_that_moved_from_what_was_undecided_is_not_enough(recorded: Reference) -> None:
    found = change(relu(memory_runs(seeds=1), 1.5), undecided(recorded))
    assert (found.status, found.failed, found.unconfirmed) == ("not confirmed", False, True)


def test_margins_against_different_rivals_are_not_compared(recorded: Reference) -> None:
    known = undecided(recorded)
    (judgement,) = gelu(relu(memory_runs(), 1.5))
    other = replace(judgement, clauses=(replace(judgement.clauses[0], rival="Model9"), *judgement.clauses[1:]))
    for judged, kind in ((judgement, "changed"), (other, "noted")):
        (found,) = [c for c in verdict_changes(known, [judged], MEMORY) if c.clause == "Model3-Model5-loss"]
        assert found.status == kind


def test_what_was_undecided_is_only_noted(recorded: Reference) -> None:
    edit(recorded.folder / "verdicts.csv", "Model3-Model5-loss,holds", "Model3-Model5-loss,undecided")
    found = change(memory_runs(), load(recorded.folder.parent, "fractals", DESIGN))
    assert (found.status, found.failed, found.unconfirmed) == ("noted", False, False)


def test_a_clause_that_is_not_recorded_fails(recorded: Reference) -> None:
    fewer = replace(recorded, recorded=recorded.recorded.query("clause != 'Model3-Model5-loss'"))
    found = change(memory_runs(), fewer)
    assert found.failed
    assert "not recorded, now holds" in found.describe()


def test_a_recorded_clause_that_is_not_judged_fails(recorded: Reference) -> None:
    (judgement,) = gelu(memory_runs())
    fewer = replace(judgement, clauses=judgement.clauses[1:])
    (found,) = verdict_changes(recorded, [fewer])
    assert found.failed
    assert "recorded as holds, and not judged though its configurations are there" in found.describe()


def test_a_recipe_that_was_not_run_is_no_change(tmp_path: Path) -> None:
    both = memory_runs([*(f"lr_{name}" for name in MEMORY), *MEMORY])
    update(tmp_path, "fractals", DESIGN, both, {})
    known = load(tmp_path, "fractals", DESIGN)
    half = both[~both["configuration"].str.startswith("lr_")]
    assert verdict_changes(known, gelu(half), MEMORY) == []
    everything = history.configurations(both)
    assert len(verdict_changes(known, gelu(half), everything)) == 4  # run, and yet not judged


# Files


def test_verdicts_are_written_and_read_with_their_tests(tmp_path: Path) -> None:
    for seeds in (1, 5, 16):
        judged = judge(memory_runs(seeds=seeds), DESIGN)
        written = frame(judged)
        write(written, tmp_path / "verdicts.csv")
        pd.testing.assert_frame_equal(read(tmp_path / "verdicts.csv"), written, rtol=1e-5)
        clauses = [clause for judgement in judged for clause in judgement.gating]
        assert list(written["method"]) == [clause.method for clause in clauses]
        assert written["p"].isna().all() == (seeds == 1)
        assert set(written["level"]) == {0.005, 0.01}  # two findings, one recipe
    assert set(written["method"]) == {"sign flips"}


def test_clauses_that_are_reported_beside_are_not_recorded() -> None:
    rows = frame(judge(student_runs(), DESIGN))
    assert set(rows.loc[rows["finding"] == "simple-converges-faster", "clause"]) == {"Model1-area", "Model2-area"}
    assert len(rows) == 80


# Recorded seeds that come out the same


def test_recorded_seeds_that_come_out_as_they_did_leave_the_recorded_verdict(tmp_path: Path) -> None:
    known = reference_of(memory_runs(seeds=20, noise=0.1), tmp_path)
    recorded = known.histories
    fresh = recorded[recorded["seed"] < 2]  # two seeds decide nothing at this noise
    assert {j.verdict for j in judge(fresh, DESIGN)} != {j.verdict for j in known.judgements}
    assert verdict_changes(known, judge(fresh, DESIGN), MEMORY) == []
    # another rounding moves little
    moved = fresh.assign(train_loss=fresh["train_loss"] * 1.001)
    assert verdict_changes(known, judge(moved, DESIGN), MEMORY) == []


def test_seeds_that_do_not_repeat_are_not_taken_for_confirmed(tmp_path: Path) -> None:
    known = reference_of(memory_runs(seeds=20, noise=0.1), tmp_path)
    fresh = known.histories[known.histories["seed"] < 2]
    new = memory_runs(seeds=2, noise=0.1, first=50)
    assert {c.status for c in verdict_changes(known, judge(new, DESIGN), MEMORY)} == {"not confirmed"}
    off = fresh.copy()
    off.loc[(off["configuration"] == "Model3") & (off["seed"] == 1), "train_loss"] *= 1.1
    kinds = {c.clause: c.status for c in verdict_changes(known, judge(off, DESIGN), MEMORY)}
    assert kinds["Model3-Model5-loss"] == "not confirmed"
    assert "Model4-Model6-loss" not in kinds


def reference_of(histories: pd.DataFrame, folder: Path) -> Reference:
    update(folder, "fractals", DESIGN, histories, {}, full=True)
    return load(folder, "fractals", DESIGN)
