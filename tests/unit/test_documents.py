"""The documents: what commands wrote is what they write now, no line is too wide, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench import workloads
from kvbench.core.custom import CustomTraining
from kvbench.core.recipe import Configuration, Recipe
from kvbench.core.trainer import Training
from kvbench.features.teacher import build, default_taps, frozen
from kvbench.findings.judge import judge
from kvbench.mutation import faults
from kvbench.reference.store import load
from kvbench.results import history
from kvbench.studies.kv_memory import STUDY
from tests.support import EXPECTED, ROOT
from tests.support.banks import Dots
from tests.support.commands import Call
from tests.support.commands_page import MARK, PAGE, generated
from tests.support.trainer import random_bank

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")])
WIDTH = 120


def test_the_page_of_results_is_what_its_command_prints(call: Call) -> None:
    workloads = [part for name in ("imagenet", "tiny-imagenet", "fractals") for part in ("--expected", name)]
    told = call("report", *workloads, "--folder", EXPECTED)
    assert (ROOT / "docs" / "results.md").read_text() == told.out


def test_the_page_of_linear_probes_is_what_its_command_prints(call: Call) -> None:
    workloads = [part for name in ("tiny-imagenet", "fractals") for part in ("--expected", name)]
    told = call("report", "--study", "linear-probes", *workloads, "--folder", EXPECTED)
    assert (ROOT / "docs" / "linear-probes.md").read_text() == told.out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_is_wider_than_a_screen(path: Path) -> None:
    wide = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r'(?:\]\(|^\[[^\]]+\]: |src="|href="|srcset=")([^)#"\s]+)', path.read_text(), flags=re.MULTILINE)
    gone = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert gone == []


def test_the_readmes_headline_is_what_the_references_record() -> None:
    readme = (ROOT / "README.md").read_text()
    for workload in ("imagenet", "tiny-imagenet", "fractals"):
        judged = load(EXPECTED, workload, STUDY.design).judgements
        headline = {j.recipe: j.verdict for j in judged if j.finding.id == "simple-converges-faster"}
        (row,) = re.findall(rf"^\| {workload} .*$", readme, flags=re.MULTILINE)
        assert [cell.strip() for cell in row.split("|")][-3:-1] == [headline["StepLR"], headline["constant lr"]]


def blocks(path: Path, containing: str) -> str:
    """The one block of Python in a document that has a text in it."""
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in found if containing in block]
    return str(block)


@pytest.mark.parametrize("name", ["README.md", "docs/extending.md"])
def test_the_student_of_the_documents_can_be_trained(name: str) -> None:
    page: dict[str, Any] = {}
    exec(blocks(ROOT / name, "def two_layers"), page)
    study = page["pytest_kvbench_studies"]()
    assert study.student("TwoLayers").build([512], 10)([torch.randn(4, 512)]).shape == (4, 10)
    assert [row.id for row in study.configurations()[7::8]] == ["lr_TwoLayers", "TwoLayers"]
    assert study.references == "", "the other configurations are compared with the references that there are"


def test_the_cache_of_the_documents_is_right_on_what_it_holds() -> None:
    page: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "extending.md", "class Cache"), page)
    bank = random_bank()
    training = Training(Configuration(page["cache"], Recipe(epochs=2)), bank, bank, [0, 1])
    training.finish()
    held = page["Cache"](bank.select((-1,)))([bank.taps[-1]]).argmax(1)
    assert (held == bank.labels).float().mean() > 0.8
    accuracies = {row["val_accuracy"] for row in training.history}
    assert accuracies == {float((held == bank.labels).double().mean())}


def test_the_ablation_without_a_teacher_of_the_documents_holds() -> None:
    page: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "extending.md", "def train("), page)
    study = page["pytest_kvbench_studies"]()
    trainings = [CustomTraining(row, study.train, range(6), torch.device("cpu")) for row in study.configurations()]
    for training in trainings:
        training.finish()
    (judgement,) = judge(history.frame(row for one in trainings for row in one.history), study.design)
    assert judgement.verdict == "holds"


def test_the_teacher_of_the_documents_can_be_tapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workloads, "WORKLOADS", dict(workloads.WORKLOADS))
    written: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "extending.md", "small_net"), written)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.save(written["small_net"](2).state_dict(), "small_net.pt")
    row = workloads.workload("mine")
    module = build(row.arch, 2, row.size)
    assert module(torch.rand(4, 3, row.size, row.size)).shape == (4, 2)
    assert default_taps(row.arch, frozen("mine", module, None), Dots(1)) == ("0", "1", "2")


def test_the_fault_of_the_documents_changes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FAULTS", dict(faults.FAULTS))
    exec(blocks(ROOT / "docs" / "extending.md", "wide-memory"), {})
    with faults.fault("wide-memory").inject():
        wide = STUDY.student("Model3").build([256, 512, 512], 10)
    memories = [weights.shape[1] for name, weights in wide.named_parameters() if name.endswith("memory")]
    assert memories == [1024] * 3


def test_the_page_of_commands_is_what_they_say() -> None:
    _, _, written = PAGE.read_text().partition(MARK)
    assert written.lstrip() == generated(), "write it anew: python -m tests.support.commands_page"


def test_every_room_is_in_the_tree() -> None:
    rooms = sorted(path.parent.name for path in (ROOT / "kvbench").glob("*/__init__.py"))
    assert len(rooms) >= 10
    assert [room for room in rooms if f"{room}/" not in (ROOT / "docs" / "design.md").read_text()] == []


def test_the_readme_has_one_command_for_the_benchmark_and_one_for_the_tests() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert [command.endswith("pytest -n auto") for command in commands] == [False, True]  # CI runs this one
    assert "pytest benchmarks/" in commands[0]


def test_the_site_has_every_document() -> None:
    listed = re.findall(r"^   (?:.* <)?([\w-]+)>?$", (ROOT / "docs" / "index.rst").read_text(), flags=re.MULTILINE)
    assert [path.stem for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in listed] == []
