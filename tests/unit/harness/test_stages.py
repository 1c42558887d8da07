"""The tasks of a command, done one by one as workers of a cluster do them: the command then finds all done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvbench.core.run import Run
from kvbench.core.stacked import Stack
from kvbench.core.trainer import Training
from kvbench.features import extract
from kvbench.harness.stages import prepare
from kvbench.utils.errors import UserError
from kvbench.utils.shares import Share
from tests.support import ROOT
from tests.support.commands import Call
from tests.support.grids import TRAINED, register

TINY = {"workload": "tiny", "device": "cpu"}
FORMULAS = {"study": "formulas", "device": "cpu", "seeds": "3"}
BOTH = ("--precision", "float32", "--precision", "bfloat16")
pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def words(texts: dict[str, str]) -> list[str]:
    return [word for name, text in texts.items() for one in text.split() for word in (f"--{name}", one)]


def do_all(command: str, each: Sequence[dict[str, str]], names: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Do every task by itself, the last first."""
    found = prepare(command, str(Path.cwd()), each, names)
    for stage in found:
        for number in range(stage.count, 0, -1):
            stage.do(Share(number, stage.count))
    return [(stage.what, stage.count) for stage in found]


def refuse(*_: object) -> None:
    raise AssertionError("all is done")


def test_banks_of_several_teachers_are_filled_by_one_pass(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [{**TINY, "set": "train_count=300", "precision": name, "cache": "there"} for name in BOTH[1::2]]
    assert do_all("extract", sides) == [("teacher pass", 4)]
    one_pass = call("extract", *words({**TINY, "set": "train_count=300", "cache": "once"}), *BOTH)
    assert one_pass.code == 0, one_pass.err
    for name in BOTH[1::2]:
        alone = call("extract", *words({**TINY, "set": "train_count=300", "precision": name, "cache": "alone"}))
        assert alone.code == 0, alone.err
    banks = sorted(path.name for path in Path("alone").iterdir())
    assert len(banks) == 4
    for cache in ("there", "once"):
        assert sorted(path.name for path in Path(cache).iterdir()) == banks
        for name in banks:
            parts = [sorted((Path(one) / name).glob("part-*")) for one in (cache, "alone")]
            assert [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]
    monkeypatch.setattr(extract, "passing", refuse)
    again = call("extract", *words({**TINY, "set": "train_count=300", "cache": "there"}), *BOTH)
    assert again.out == one_pass.out.replace("once", "there")
    lines = again.out.splitlines()
    assert [line.partition(":")[0].rpartition(" ")[2] for line in lines] == [*BOTH[1:2] * 2, *BOTH[3:] * 2]


def test_options_side_by_side_are_as_many_or_one(call: Call) -> None:
    told = call("extract", *words(TINY), *BOTH, "--taps", "first", "--taps", "second", "--taps", "first,second")
    assert told.code == 2
    assert "Error: --precision is given 2 times: valid is once for all, or 3 times, as another is." in told.err


def test_a_part_of_the_pass_for_several(call: Call) -> None:
    told = call("extract", *words({**TINY, "set": "train_count=300"}), *BOTH, "--part", "2/4")
    assert told.code == 0, told.err
    assert told.out.count("train: 1 of 3 part files are done, in .kvbench/tiny-train-") == 2
    assert len(list(Path(".kvbench").glob("*/part-00001.safetensors"))) == 2


def test_trainings_need_banks_which_are_filled_first(call: Call, tmp_path: Path) -> None:
    Path("benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "test_ablation.py", f"benchmarks/{tmp_path.name}_test.py")
    found = do_all("train", [{**TINY, "set": "epochs=1", "seeds": "1"}], ["Model1", "Model2"])
    assert found == [("teacher pass", 2), ("trainings", 2)]
    assert len(list(Path(".kvbench").glob("trainings/*/*.json"))) == 2


@pytest.mark.parametrize(("strategy", "tasks"), [("interleaved", 4), ("stacked", 2)])
def test_seeds_that_are_one_model_are_one_task(strategy: str, tasks: int, call: Call, tmp_path: Path) -> None:
    Path("benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "test_ablation.py", f"benchmarks/{tmp_path.name}_test.py")
    sizes: list[int] = []
    stacking = Stack.__init__

    def counted(self: Stack, runs: Sequence[Run]) -> None:
        sizes.append(len(runs))
        stacking(self, runs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "__init__", counted)
        found = do_all("train", [{**TINY, "set": "epochs=1", "seeds": "2", "strategy": strategy}], ["Model1", "Model2"])
    assert found == [("teacher pass", 2), ("trainings", tasks)]
    assert sizes == ([2, 2] if strategy == "stacked" else [])
    assert len(list(Path(".kvbench").glob("trainings/*/*.json"))) == tasks


@pytest.mark.parametrize(
    ("texts", "finding", "stages"),
    [
        ({**FORMULAS, "set": "lr=0.02,0.08 batch_size=32,64"}, "momentum-helps", [("trainings", 16)]),
        (
            {**TINY, "set": "train_count=64,128 epochs=1", "seeds": "2"},
            "gelu-beats-relu",
            [("teacher pass", 2), ("teacher pass", 2), ("trainings", 16)],
        ),
    ],
)
def test_a_sweep_finds_what_tasks_left_and_maps_the_same(
    texts: dict[str, str], finding: str, stages: list[tuple[str, int]], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = call("sweep", *words({**texts, "cache": "alone"}), "--finding", finding)
    assert alone.code == 0, alone.err
    assert do_all("sweep", [{**texts, "cache": "there"}], [finding]) == stages
    TRAINED.clear()
    monkeypatch.setattr(Training, "finish", refuse)
    monkeypatch.setattr(extract, "passing", refuse)
    there = call("sweep", *words({**texts, "cache": "there"}), "--finding", finding)
    assert there.out == alone.out
    assert TRAINED == []
    kept = [sorted(path.name for path in Path(cache).glob("sweeps/*/*")) for cache in ("alone", "there")]
    assert kept[0] == kept[1] != []


def test_a_sweep_of_a_study_in_no_file_has_no_tasks(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr("kvbench.harness.sweep.keeps", lambda _: False)
    with pytest.raises(UserError, match="The code of formulas is in no file, so nothing can be kept"):
        do_all("sweep", [{**FORMULAS, "set": "lr=0.02,0.08"}])


def test_a_sweep_whose_banks_cannot_be_made_says_so_where_it_trains(call: Call) -> None:
    texts = {**TINY, "set": "train_count=64 lr=1e-3,2e-3", "taps": "third", "seeds": "1"}
    (stage,) = prepare("sweep", str(Path.cwd()), [texts], [])[-1:]
    with pytest.raises(UserError, match="No tap 'third'"):
        stage.do(Share(1, stage.count))
