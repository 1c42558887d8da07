"""What is told of where numbers come from, and which source code decides them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kvbench.utils import environment


def test_versions_of_all_that_decides_a_bank_are_told() -> None:
    cpu = torch.device("cpu")
    here, made = environment.environment(cpu), environment.built_with(cpu)
    assert made["versions"].items() <= here["versions"].items()
    assert {"torch", "torchvision", "numpy", "pillow"} == made["versions"].keys()
    assert (made["hardware"], made["numerics"]) == (here["hardware"], here["numerics"])


@pytest.mark.parametrize(
    ("asked", "found"),
    [(None, 6), ("4", 4), (" 2 ", 2), ("3,2", 3), ("64", 6), ("0", 6), ("", 6), ("-1", 6), ("many", 6)],
)
def test_there_are_as_many_processors_as_torch_has_threads(
    asked: str | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(6)}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert environment.processors() == found


def test_changed_code_of_kvbench_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kvbench"
    package.mkdir()
    (package / "provenance.py").write_text("A = 1\n")
    (package / "trainer.py").write_text("A = 1\n")
    monkeypatch.setattr(environment, "__file__", str(package / "provenance.py"))
    before = environment.code([])
    assert environment.code([]) == before
    (package / "trainer.py").write_text("A = 2\n")
    assert environment.code([]) != before


def test_loaded_modules_count_with_what_they_say_and_not_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.6 writes a module into a temporary folder of random name and loads it."""

    def loaded(folder: str, content: str) -> str:
        path = tmp_path / folder / "made.py"
        path.parent.mkdir()
        path.write_text(content)
        monkeypatch.setitem(sys.modules, "made", SimpleNamespace(__file__=str(path)))
        return environment.code([])

    without = environment.code([])
    assert loaded("one", "A = 1\n") == loaded("other", "A = 1\n") != without
    assert loaded("third", "A = 2\n") not in {without, loaded("fourth", "A = 1\n")}


def test_what_editors_leave_beside_the_source_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("A = 1\n")
    before = environment.code([tmp_path])
    (tmp_path / ".#test_it.py").symlink_to("me@host.123:456")
    (tmp_path / ".test_it.py").write_text("A = 2\n")
    assert environment.code([tmp_path]) == before
    (tmp_path / "broken.py").symlink_to("gone.py")
    (tmp_path / "folder.py").mkdir()
    assert environment.code([tmp_path]) != before
