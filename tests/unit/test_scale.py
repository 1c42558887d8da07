"""The plan for a pass on many machines: what it says follows from its rates, and the page has what its command says."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import scale
from benchmarks.scale import Node, Trouble, seconds_of
from tests.support import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text()


def told(*options: str) -> list[str]:
    app = typer.Typer()
    app.command()(scale.main)
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_processors_decode_and_pass_in_turns_and_a_gpu_passes_meanwhile() -> None:
    assert Node(16, False, 1.0, 0.25, 0.75).rate(1) == 1.0
    assert Node(16, False, 1.0, 0.25, 0.75).rate(5) == 0.25
    assert Node(1, True, 1.0, 0.25, 0.125).rate(1) == Node(1, True, 1.0, 0.25, 0.125).rate(2) == 4.0
    assert Node(1, True, 1.0, 0.25, 0.125).rate(4) == 2.0


def test_every_worker_looks_at_the_files_of_its_workloads() -> None:
    size, look = scale.WORKLOAD, 1e-4
    one, passing = size * look, size / 1000
    assert seconds_of(size, 10, 1000, look) == pytest.approx(one + passing / 10)
    assert seconds_of(8 * size, 80, 1000, look) == pytest.approx(one + passing / 10), "beside each other"
    assert seconds_of(8 * size, 2, 1000, look) == pytest.approx(4 * (one + passing)), "one after the other"


def test_rates_are_those_of_a_nodes_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "TROUBLES", {})
    rates = {"decode-ms": 10, "pass-ms": 15, "pass-processors": 2, "processors": 20, "photo-kb": 61}
    lines = told(*(word for name, value in rates.items() for word in (f"--{name}", str(value))))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert rows[0] == ["CPU", "1", "0.50 ms", "1.50 ms", "500", "30 MB", "pass"]
    assert rows[2] == ["GPU", "1", "0.50 ms", "0.50 ms", "2,000", "122 MB", "decode"]
    assert rows[3] == ["GPU", "5", "0.50 ms", "2.50 ms", "400", "24 MB", "pass"]


def cells(line: str) -> list[str]:
    return [cell.strip(" :-") for cell in line.split("|")]


def test_the_page_has_the_tables_that_its_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = re.findall(r"^python -m benchmarks\.scale (.*)$", PAGE, flags=re.MULTILINE)
    monkeypatch.setattr(scale, "TROUBLES", {"none": Trouble()})  # the others take seconds
    tables = [cells(line) for line in told(*shlex.split(command)) if line]
    assert len(tables) == 6 + 10 + 3
    assert [row for row in tables if row not in [cells(line) for line in PAGE.splitlines()]] == []
