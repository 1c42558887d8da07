"""An interrupted suite goes on where it was, in-process: what is reused, told, refused and removed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from kvbench.harness import resume as resumption
from tests.support.project import Project, counts
from tests.support.resume import EPOCHS, TWO, Interruption, records, states, timeless


def test_the_same_command_goes_on_says_so_and_ends_in_the_same_histories(
    interrupted: Project, pytester: pytest.Pytester, interruption: Interruption
) -> None:
    result = interrupted(*TWO, "--benchmark-json=resumed.json")
    counts(result, passed=2, failed=0)
    result.stdout.fnmatch_lines(
        [
            "kvbench: Model1 is reused, an interrupted run finished it.",
            "kvbench: Model2 goes on at epoch 3.",
            "REUSED: Model1 (finished); Model2 from epoch 3 on; *--kvbench-fresh",
        ]
    )
    assert interruption.trained == 2, "one epoch of two seeds"
    assert not (pytester.path / ".kvbench" / "unfinished").exists(), "removed once all is through"
    interruption.trained = 0
    result = interrupted(*TWO, "--benchmark-json=undisturbed.json")
    assert interruption.trained == 2 * 2 * EPOCHS, "a run after a whole one trains anew"
    result.stdout.no_fnmatch_line("*REUSED*")
    assert timeless(pytester.path / "resumed.json") == timeless(pytester.path / "undisturbed.json")
    assert records(pytester.path / "resumed.json")["Model2"]["reused_epochs"] == [2, 2]
    assert records(pytester.path / "undisturbed.json")["Model2"]["reused_epochs"] == [0, 0]


def test_the_benchmark_counts_the_seconds_of_reused_epochs(interrupted: Project, pytester: pytest.Pytester) -> None:
    interrupted(*TWO, "--benchmark-json=resumed.json")
    benchmarks = json.loads((pytester.path / "resumed.json").read_text())["benchmarks"]
    assert len(benchmarks) == 2
    for benchmark in benchmarks:
        assert benchmark["stats"]["rounds"] == EPOCHS
        rows = benchmark["extra_info"]["kvbench"]["history"]
        for epoch, seconds in enumerate(benchmark["stats"]["data"], 1):
            trained = sum(row["seconds"] for row in rows if row["epoch"] == epoch)  # one thread: one after the other
            assert 0.8 * trained < seconds, "a reused epoch would take an instant"
        assert "reused epochs counted" in benchmark["options"]["timer"]


def test_a_report_of_a_resumed_run_says_so(interrupted: Project, pytester: pytest.Pytester) -> None:
    interrupted(*TWO, "--benchmark-json=resumed.json")
    from kvbench.reporting.report import report_saved

    told = "- resumed: Model1 (finished); Model2 from epoch 3 on"
    assert told in report_saved(pytester.path / "resumed.json")
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


def test_twins_are_resumed_too(run: Project, pytester: pytest.Pytester, interruption: Interruption) -> None:
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
    result.stdout.fnmatch_lines(["kvbench: Model3 goes on at epoch 2.", "*fails by design*"])
    assert sorted(line.split(",")[:7] for line in replicates.read_text().splitlines()) == sorted(before)


# Old states


def test_old_states_are_removed_unless_they_are_in_use_or_of_the_future(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("old", 15), ("used", 15), ("young", 13), ("future", -400)):
        folder = tmp_path / "small-0" / name
        folder.mkdir(parents=True)
        for path in (folder / "seed-0.safetensors", folder.with_name(f"{name}.lock")):
            path.touch()
        for path in (folder / "seed-0.safetensors", folder.with_name(f"{name}.lock"), folder):
            os.utime(path, (now - age * 86400, now - age * 86400))
    with FileLock(tmp_path / "small-0" / "used.lock"):
        os.utime(tmp_path / "small-0" / "used.lock", (now - 15 * 86400, now - 15 * 86400))
        resumption.remove_old(tmp_path)
    left = sorted(path.name for path in (tmp_path / "small-0").iterdir() if path.is_dir())
    assert left == ["future", "used", "young"]
