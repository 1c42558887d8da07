"""``kvbench train`` and ``kvbench extract --part``, called as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvbench.harness import kept, resume, session, tasks
from tests.support import ROOT
from tests.support.banks import left
from tests.support.commands import Call
from tests.support.grids import TRAINED, register

KEPT = (kept, resume, session, tasks)  # imported here: a pytest in this process is to find them
FORMULAS = ("train", "--study", "formulas", "--device", "cpu", "--seeds", "3")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def suite(call: Call, tmp_path: Path) -> Path:
    """The shipped suite in the current folder; a module has one path in a process, so its name is the test's."""
    Path("benchmarks").mkdir()
    return Path(shutil.copy(ROOT / "benchmarks" / "test_ablation.py", f"benchmarks/{tmp_path.name}_test.py"))


def test_parts_train_all_once_and_again_nothing(call: Call, suite: Path) -> None:
    told = call(*FORMULAS, "--part", "2/2")
    assert told.code == 0, told.err
    assert "part 2 of 2 is done, 6 trainings of a seed: 6 trained, 0 found, in " in told.out
    assert len(TRAINED) == 6 * 2
    assert call(*FORMULAS, "--part", "1/2").code == 0
    assert len(TRAINED) == len({*TRAINED}) * 2 == 12 * 2
    TRAINED.clear()
    whole = call(*FORMULAS)
    assert "part 1 of 1 is done, 12 trainings of a seed: 0 trained, 12 found" in whole.out
    more = call(*FORMULAS[:-1], "4")
    assert "16 trainings of a seed: 4 trained, 12 found" in more.out
    assert {seed for _, _, seed in TRAINED} == {3}


def test_what_diverges_is_a_sentence_and_keeps_nobody(call: Call, suite: Path) -> None:
    told = call(*FORMULAS, "--set", "lr=0.9")
    sentences = [f"The training loss of {name} (seed 0) is nan in epoch 1: try" for name in ("momentum", "lr_momentum")]
    assert told.code == 2
    assert all(sentence in told.err for sentence in sentences)
    assert {name for name, _, _ in TRAINED} == {"plain", "momentum", "lr_plain", "lr_momentum"}
    trained = len(TRAINED)
    assert call(*FORMULAS, "--set", "lr=0.9").code == 2
    assert [name for name, _, _ in TRAINED[trained:] if "plain" in name] == [], "what is whole is found"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "There is no folder benchmarks/ here, whose tests say what is trained: kvbench init writes one."),
        ("def test_other(): pass", "pytest finds nothing to train in benchmarks/: 1 test collected in "),
        ("import nowhere", "pytest finds nothing to train in benchmarks/: ModuleNotFoundError: No module named 'nowh"),
    ],
)
def test_where_nothing_is_to_be_trained_it_is_said(call: Call, source: str | None, sentence: str) -> None:
    if source is not None:
        Path("benchmarks").mkdir()
        Path(f"benchmarks/test_{len(source)}.py").write_text(source)
    told = call(*FORMULAS)
    assert (told.code, told.out) == (2, "")
    assert f"Error: {sentence}" in told.err


@pytest.mark.parametrize("command", ["extract", "train"])
def test_what_is_no_part_is_refused_at_once(call: Call, command: str) -> None:
    told = call(command, "--part", "9/8")
    assert told.code == 2
    assert told.err == (
        "Error: Cannot read the part '9/8': give I/N, the I-th of N shares of the work, such as 1/8 to 8/8.\n"
    )


@pytest.mark.usefixtures("small_parts")
def test_a_part_of_the_banks_is_computed(call: Call) -> None:
    arguments = ("extract", "--workload", "tiny", "--device", "cpu", "--set", "train_count=300")
    told = call(*arguments, "--part", "2/4")
    assert told.code == 0, told.err
    assert "train: 1 of 3 part files are done, in .kvbench/tiny-train-" in told.out
    assert "val: 0 of 1 part files are done, in .kvbench/tiny-val-" in told.out
    assert left(Path(".kvbench")) == ["1"]
    for part in ("1/4", "3/4", "4/4", "2/4"):
        assert call(*arguments, "--part", part).code == 0
    assert left(Path(".kvbench")) == ["0", "0", "1", "2"]
    assert "train: 300 images" in call(*arguments).out
