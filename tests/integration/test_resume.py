"""An interrupted suite goes on where it was, in-process: what is reused, told, refused and removed."""

from __future__ import annotations

import json

import pytest

from kvbench.results.saved import read
from kvbench.studies.kv_memory import STUDY
from tests.support.project import Project, counts
from tests.support.resume import TWO, Interruption, records, states, timeless
from tests.support.small import EPOCHS


def test_the_same_command_goes_on_says_so_and_ends_in_the_same_histories(
    interrupted: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    result = interrupted(*TWO, "--benchmark-json=resumed.json")
    counts(result, passed=2, failed=0)
    reused = ["Model1 is reused, an earlier run finished it.", "Model2 goes on at epoch 3."]
    result.stderr.fnmatch_lines(reused)
    result.stdout.fnmatch_lines(["REUSED: Model1 (finished); Model2 from epoch 3 on; *", "  pytest *--kvbench-fresh"])
    assert interruption.trained == 2, "one epoch of two seeds"
    assert not (pytester.path / ".kvbench" / "checkpoints").exists(), "removed once all is through"
    interruption.trained = 0
    result = interrupted(*TWO, "--benchmark-json=undisturbed.json")
    assert interruption.trained == 2 * 2 * EPOCHS, "a run after a whole one trains anew"
    result.stdout.no_fnmatch_line("*REUSED*")
    assert timeless(pytester.path / "resumed.json") == timeless(pytester.path / "undisturbed.json")
    assert records(pytester.path / "resumed.json")["Model2"]["reused_epochs"] == [2, 2]
    assert records(pytester.path / "undisturbed.json")["Model2"]["reused_epochs"] == [0, 0]


def test_stacked_seeds_are_compared_as_interleaved_ones_are_and_never_taken_for_them(
    run: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    found = []
    for strategy in ("interleaved", "stacked"):
        interruption.after = 2 * 2 * EPOCHS if strategy == "interleaved" else 0  # of lone runs
        counts(run(*TWO, f"--kvbench-strategy={strategy}", f"--benchmark-json={strategy}.json"), passed=2, failed=0)
        found.append(timeless(pytester.path / f"{strategy}.json"))
    losses = [[row["train_loss"] for row in rows] for rows in found]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_benchmark_shows_what_was_timed_here(interrupted: Project, pytester: pytest.Pytester) -> None:
    result = interrupted(*TWO, "--benchmark-json=resumed.json")
    (benchmark,) = json.loads((pytester.path / "resumed.json").read_text())["benchmarks"]
    assert benchmark["name"] == "test_configuration[Model2]"
    assert benchmark["stats"]["rounds"] == EPOCHS - 2
    rows = {name: record["history"] for name, record in records(pytester.path / "resumed.json").items()}
    trained = sum(row["seconds"] for row in rows["Model2"] if row["epoch"] == EPOCHS)  # one thread: one after the other
    assert 0.8 * trained < benchmark["stats"]["data"][0]
    assert all(row["seconds"] > 0 for name in rows for row in rows[name]), "histories keep their seconds"
    result.stdout.no_re_match_line(r"test_configuration\[Model1\] .*\d")


@pytest.mark.parametrize("more", [(), ("--benchmark-disable",)])
def test_a_suite_of_which_all_is_reused_is_compared_and_saved(
    run: Project, pytester: pytest.Pytester, interruption: Interruption, more: tuple[str, ...]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_benchmark.session.BenchmarkSession.finish", lambda _: pytest.exit("SIGTERM", 143))
        run(*TWO)
    assert len(states(pytester.path)) == 4
    interruption.trained = 0
    result = run(*TWO, "--benchmark-json=resumed.json", *more)
    assert interruption.trained == 0
    counts(result, passed=2, failed=0)
    result.stdout.fnmatch_lines(["REUSED: Model1, Model2 (finished); *"])
    result.stdout.no_fnmatch_line("*Warning*")
    assert states(pytester.path) == []
    if more != ("--benchmark-disable",):
        assert {len(record["history"]) for record in records(pytester.path / "resumed.json").values()} == {2 * EPOCHS}
        assert len(records(pytester.path / "resumed.json")) == 2


def test_a_report_of_a_resumed_run_says_so(interrupted: Project, pytester: pytest.Pytester) -> None:
    interrupted(*TWO, "--benchmark-json=resumed.json")
    from kvbench.reporting.contents import of_saved

    told = "- resumed: Model1 (finished); Model2 from epoch 3 on"
    assert told in of_saved(read(pytester.path / "resumed.json"), STUDY.design, pytester.path / "expected").markdown()
    assert told in (pytester.path / ".kvbench" / "report-small.md").read_text()


def test_fresh_starts_over(interrupted: Project, pytester: pytest.Pytester, interruption: Interruption) -> None:
    result = interrupted(*TWO, "--kvbench-fresh")
    assert interruption.trained == 2 * 2 * EPOCHS
    result.stdout.no_fnmatch_line("*REUSED*")
    assert states(pytester.path) == []


@pytest.mark.parametrize("where", ["beside the test", "another seed", "a switch of a library"])
def test_what_decides_the_numbers_decides_what_is_reused(
    interrupted: Project,
    pytester: pytest.Pytester,
    interruption: Interruption,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more: tuple[str, ...] = ()
    if where == "beside the test":
        (pytester.path / "benchmarks" / "helpers").mkdir()
        (pytester.path / "benchmarks" / "helpers" / "students.py").write_text("WIDTH = 7\n")
    elif where == "another seed":
        more = ("--kvbench-seeds", "1:3")
    else:
        monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    interrupted(*TWO, *more)
    assert interruption.trained == 2 * 2 * EPOCHS
    assert len(states(pytester.path)) == 4, "what was left by the other one stays"


def test_replicates_are_resumed_too(run: Project, pytester: pytest.Pytester, interruption: Interruption) -> None:
    one = ("-k", "[Model3]", "--kvbench-update-expected", "--kvbench-seeds", "6")
    replicates = pytester.path / "expected" / "small" / "replicates.csv"
    before = [line.split(",")[:7] for line in replicates.read_text().splitlines()]
    replicates.write_text(
        "\n".join(line for line in replicates.read_text().splitlines() if not line.startswith("Model3,")) + "\n"
    )
    interruption.after = 12 + 3
    assert run(*one).ret == pytest.ExitCode.INTERRUPTED
    assert len(states(pytester.path)) == 12
    interruption.after = 10**9
    result = run(*one)
    result.stderr.fnmatch_lines(["Model3 goes on at epoch 2."])
    result.stdout.fnmatch_lines(["*fails by design*"])
    assert sorted(line.split(",")[:7] for line in replicates.read_text().splitlines()) == sorted(before)
