"""Blocks and commands of documents: each command is one that there is, each block is run or says why not.

A block without a language, or ``console``, holds commands; ``text`` holds what is printed or drawn, ``diff`` what is to
be changed; ``python`` is run, and ``yaml`` cannot be.
Above a block that is not run stands ``<!-- not run: why -->``, or ``<!-- run by ... -->`` where a test of its own runs
it. Commands in sentences are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from kvbench import workloads
from kvbench.mutation import faults
from kvbench.studies import kv_memory
from tests.support import ROOT
from tests.support.command_lines import commands, problem
from tests.support.commands import Call

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
MENTIONED = re.compile(r"`((?:kvbench|pytest|python -m|tox)(?: [^`]*)?)`", re.S)
LANGUAGES = {"", "console", "text", "python", "diff", "yaml"}
TUTORIAL = "tutorial.md"  # run to the letter by tests/integration/test_tutorial.py


class Block(NamedTuple):
    document: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def id(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def shell(self) -> str:
        """Its commands; of a console those behind ``$``."""
        lines = self.text.splitlines()
        return (
            "\n".join(line[2:] for line in lines if line.startswith("$ ")) if self.language == "console" else self.text
        )


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        content = document.read_text()
        for found in BLOCK.finditer(content):
            line = content[: found.start("text")].count("\n")
            yield Block(document, line, found["language"], found["text"], found["mark"] or "")


BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language in {"", "console"}]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def test_every_block_is_found_and_of_a_known_kind() -> None:
    fences = sum(len(re.findall(r"^ *```", document.read_text(), flags=re.M)) for document in DOCUMENTS)
    assert fences == 2 * len(BLOCKS)
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert len(SHELL) > 10
    assert len(PYTHON) > 5


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.id)
def test_every_command_of_a_block_is_one_that_there_is(block: Block, pytestconfig: pytest.Config) -> None:
    found = list(commands(block.shell))
    assert found
    assert {" ".join(words): why for words in found if (why := problem(words, pytestconfig))} == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_sentence_is_one_that_there_is(document: Path, pytestconfig: pytest.Config) -> None:
    prose = BLOCK.sub("", document.read_text())
    wrong = {}
    for text in MENTIONED.findall(prose):
        for words in commands(" ".join(text.split()).replace("...", "")):
            if why := problem(words, pytestconfig, mentioned=True):
                wrong[text] = why
    assert wrong == {}


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.id)
def test_commands_run_or_say_why_not(block: Block, call: Call) -> None:
    if block.mark.startswith(("not run: ", "run by ")) or block.document.name == TUTORIAL:
        return
    for words in commands(block.shell):
        assert words[0] == "kvbench", f"{block.id}: {words} is not run: say why above the block, <!-- not run: why -->"
        told = call(*words[1:])
        assert told.code == 0, f"{words}: {told.err}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_python_runs_or_says_why_not(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.mark.startswith("not run: "):
        return
    monkeypatch.setattr(workloads, "WORKLOADS", dict(workloads.WORKLOADS))
    monkeypatch.setattr(faults, "FAULTS", dict(faults.FAULTS))
    rows = block.document.name == "CONTRIBUTING.md"  # these are rows of a table of this module
    exec(block.text, dict(vars(kv_memory)) if rows else {})


def test_marks_lead_to_tests() -> None:
    gone = [
        block.id
        for block in BLOCKS
        for path in re.findall(r"run by (\S+)", block.mark)
        if not (ROOT / path.rstrip(",;")).is_file()
    ]
    assert gone == []


def test_the_workflow_is_one_and_runs_what_there_is(pytestconfig: pytest.Config) -> None:
    (block,) = [block for block in BLOCKS if block.language == "yaml"]
    assert block.mark.startswith("not run: ")
    workflow: dict[Any, Any] = yaml.safe_load(block.text)
    assert workflow.keys() == {"name", True, "permissions", "concurrency", "jobs"}  # YAML 1.1 reads on as true
    assert {*workflow[True]} == {"pull_request", "push", "workflow_dispatch"}
    (job,) = workflow["jobs"].values()
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    found = [words for script in scripts for words in commands(script)]
    assert {" ".join(words): why for words in found if (why := problem(words, pytestconfig))} == {}
    ours = [" ".join(words[:2]) for words in found if words[0] in {"kvbench", "pytest"}]
    assert {"kvbench doctor", "kvbench extract", "kvbench cache", "pytest benchmarks/", "kvbench compare"} == {*ours}
    assert not [script for script in scripts if "${{" in script], (
        "what others name reaches a script as a variable alone"
    )
    saved = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/cache/")]
    assert len(saved) == 2
    assert {one["path"] for one in saved} == {".kvbench"}
    assert len({one["key"] for one in saved}) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("kvbench reprot a.json", "no command"),
        ("kvbench cache clean --older 3d", "--older"),
        ("kvbench report --expected", "--expected"),
        ("pytest benchmarks/ --kvbench-sedes 3", "--kvbench-sedes"),
        ("pytest benchmarks/ && pytest --no-such-option", "--no-such-option"),
        ("python -m benchmarks.nowhere", "no module"),
        ("tox -e nowhere", "no environment"),
        ("frobnicate", "not known"),
    ],
)
def test_what_there_is_not_is_told(line: str, why: str, pytestconfig: pytest.Config) -> None:
    assert any(why in problem(words, pytestconfig) for words in commands(line))
