"""Continuous integration: JUnit's properties and a step's summary, in one process and with workers."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from kvbench.harness.ci import LARGEST, STEP
from tests.support.resume import records
from tests.support.sessions import FINDINGS, TinyProject, suite_of

FINDING = "gelu-beats-relu"
NEEDED = tuple(f"{prefix}{name}" for prefix in ("lr_", "") for name in ("Model3", "Model4", "Model5", "Model6"))


def properties(element: ElementTree.Element) -> dict[str, str]:
    return {one.attrib["name"]: one.attrib["value"] for one in element.findall("properties/property")}


@pytest.mark.parametrize("workers", [0, 2])
def test_junit_has_the_numbers(project: TinyProject, workers: int) -> None:
    drawn = suite_of(NEEDED, [FINDING], workers=workers)
    assert project.run(drawn, "--junitxml=junit.xml", "--benchmark-json=run.json")[0] == 0, project.stdout
    suite = ElementTree.parse(project.path / "junit.xml").getroot()[0]
    tests = {case.attrib["name"]: properties(case) for case in suite.iter("testcase")}
    assert len(tests) == len(NEEDED) + 1
    plain = project.histories
    for name in NEEDED:
        last = plain[(plain["configuration"] == name) & (plain["epoch"] == 2)]
        mine = tests[f"test_configuration[{name}]"]
        assert (mine["kvbench.seeds"], mine["kvbench.epoch"]) == ("2", "2")
        for metric in ("train_loss", "val_loss", "val_accuracy", "agreement"):
            assert float(mine[f"kvbench.{metric}"]) == pytest.approx(last[metric].mean(), rel=1e-5)
        assert float(mine["kvbench.seconds"]) > 0
    judged = {name: text for name, text in properties(suite).items() if FINDING in name}
    clauses = {clause for name in judged if ".margin." in name for clause in [name.rpartition(".")[2]]}
    assert len(clauses) == 4
    each = ["verdict", "clauses held"], ["margin", "low", "high", "n"]
    recipes = ("StepLR", "constant lr")
    assert {*judged} == {
        *(f"kvbench.{what}.{FINDING}.{recipe}" for what in each[0] for recipe in recipes),
        *(f"kvbench.{what}.{FINDING}.{recipe}.{one}" for what in each[1] for recipe in recipes for one in clauses),
    }
    for recipe in recipes:
        for one in clauses:
            low, margin, high = (
                float(judged[f"kvbench.{k}.{FINDING}.{recipe}.{one}"]) for k in ("low", "margin", "high")
            )
            assert low <= margin <= high
            assert judged[f"kvbench.n.{FINDING}.{recipe}.{one}"] == "2"
    assert properties(suite)["kvbench.outcome"] == "incomplete"
    alone = {name.replace(f".{FINDING}", ""): text for name, text in judged.items()}
    assert tests[f"test_finding[{FINDING}]"] == ({} if workers else alone), "workers know their own share alone"
    if not workers:
        assert len(records(project.path / "run.json")) == len(NEEDED)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_steps_summary_has_the_report_and_where_to_look(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    path = project.path / "summary.md"
    path.write_text("What another step says.\n\n")
    monkeypatch.setenv(STEP, str(path))
    code, _ = project.run(suite_of(NEEDED, FINDINGS[:1], moved="Model3", workers=workers), "--junitxml=junit.xml")
    assert code == 1
    told = path.read_text()
    assert told.startswith("What another step says.\n\n# kvbench: tiny\n")
    assert told.count("# kvbench: tiny\n") == 1, "workers leave it to the session"
    assert "**This run FAILED: do not use it as a baseline.**" in told
    assert "| Model3 " in told
    assert "- WHERE TO LOOK: 1 of 8 configurations drifted. Look first at Model3" in told


def test_nothing_about_a_summary_fails_a_run(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = suite_of(["Model1"], [])
    for place in (tmp_path, tmp_path / "no" / "such" / "folder"):
        monkeypatch.setenv(STEP, str(place))
        assert project.run(few)[0] == 0
        assert any("Could not write the summary of the step" in text for text in project.logged)
    full = tmp_path / "full"
    full.write_bytes(b"-" * LARGEST)
    monkeypatch.setenv(STEP, str(full))
    assert project.run(few)[0] == 0
    assert full.stat().st_size == LARGEST
    monkeypatch.delenv(STEP)
    assert project.run(few)[0] == 0
    assert not any("summary of the step" in text for text in project.logged)
