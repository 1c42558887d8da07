"""Clean runs of the small study: dealt out, kept, counted, and failing where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kvbench.mutation import clean_runs, small_study
from kvbench.mutation.alarms_report import page
from kvbench.mutation.clean_runs import NEW, SAME, CleanRun, Task, alarms_by_reference, folder_of, measure, read, tasks
from kvbench.mutation.faults import FAULTS
from kvbench.mutation.known_truth import Counted, worlds
from kvbench.mutation.side_by_side import side_by_side
from kvbench.utils.environment import environment

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clean runs with new seeds and one that repeats, against a reference."""
    folder = tmp_path_factory.mktemp("clean")
    measure(folder, 2, 1, 1, workers=1)
    return folder


def test_runs_are_dealt_out_and_no_two_new_ones_share_a_seed() -> None:
    made = tasks(7, 2, 3)
    assert [task.reference for task in made] == [0, 1, 2, 0, 1, 2, 0, 0, 1]
    new = [seed for task in made if task.kind == NEW for seed in task.seeds]
    assert len({*new}) == len(new) == 7 * 5
    assert min(new) >= 3 * clean_runs.REFERENCE_SEEDS
    assert [*Task(SAME, 4, 2).seeds] == [40, 41, 42, 43, 44]


def test_clean_runs_pass_and_are_not_trained_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_study, "_trained", lambda *_: pytest.fail("something was trained"))
    outcomes = measure(cache, 2, 1, 1, workers=1)
    assert [(one.kind, one.number, one.reference) for one in outcomes] == [(NEW, 0, 0), (NEW, 1, 0), (SAME, 0, 0)]
    assert not any(one.alarm for one in outcomes)
    assert len(measure(cache, 1, 0, 1, workers=1)) == 1


def test_a_line_that_a_kill_cut_short_is_measured_again(cache: Path) -> None:
    path = folder_of(cache) / "outcomes.jsonl"
    whole = path.read_text()
    path.write_text(whole.rstrip("\n")[:-9])
    assert len(read(path)) == 2
    assert len(measure(cache, 2, 1, 1, workers=1)) == 3
    assert len(read(path)) == 3


def test_a_session_with_a_fault_alarms(cache: Path) -> None:
    task = Task(NEW, 5, 0)
    with FAULTS["lr-x2"].inject():
        outcome = clean_runs.run(folder_of(cache), task)
    assert outcome.tolerances > 0
    assert outcome.alarm


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_side_by_side_come_to_the_same(workers: int) -> None:
    with side_by_side(workers) as each:
        assert sorted(each(pow, [(number, 2) for number in range(6)])) == [0, 1, 4, 9, 16, 25]
        with pytest.raises(ZeroDivisionError):
            [*each(divmod, [(1, 0)])]


def test_the_page_says_what_was_counted() -> None:
    outcomes = [CleanRun(NEW, number, number % 2, tolerances=int(number == 4), unsettled=3) for number in range(300)]
    assert alarms_by_reference(outcomes) == {0: 1, 1: 0}
    counted = [Counted("no effect in any finding", 200, 2, 0, 0), Counted("sure", 200, 0, 2900, 3000)]
    counted += [Counted(world.name, 2000, 0, 0, 10) for world in worlds(5)]
    text = page(outcomes, counted, [], environment(CPU), "kvbench alarms --runs 300")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [cell[-1] for cell in cells[2:11]] == ["300", "2", "1", "1", "0", "0", "0.33%", "1.57%", "1"]
    assert ["findings a run that its seeds are too few to confirm", "3.0"] in cells
    assert max(map(len, text.splitlines())) <= 120
    assert ["no effect in any finding", "200", "2", "1.00%", "3.11%", "-"] in cells
    assert ["sure", "200", "0", "0.00%", "1.49%", "96.7%"] in cells
    assert "Made by `kvbench alarms --runs 300` on" in text


def test_an_outcome_can_be_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps({"kind": NEW, "number": 1, "reference": 2, "verdicts": 1}) + "\n\n[1]\n{}\n")
    assert read(path) == [CleanRun(NEW, 1, 2, verdicts=1)]
    assert read(tmp_path / "none") == []
