"""docs/tutorial.md, done to the letter: its commands are run in order in an empty folder, and its edits are made.

A block ``console`` holds commands, behind ``$``, and what they print, abridged by ``...``. A block ``diff`` holds an
edit: the file's name, then lines that stay, go and come. The one thing that is not done is ``pip install``: kvbench is
this source, in the environment at hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
INSTALLS = ("mkdir ", "python3 -m venv ", "pip install ")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LIKE = 0.05  # of a number: another processor rounds otherwise


def blocks(page: str) -> Iterator[tuple[str, list[str]]]:
    """Every block of a page: its language and its lines."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        yield language, text.splitlines()


def commands(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every command of a console, with the lines that it prints; what installs kvbench is left out."""
    assert lines[0].startswith("$ ")
    for part in re.split(r"^\$ ", "\n".join(lines), flags=re.MULTILINE)[1:]:
        command, *printed = part.splitlines()
        if not command.startswith(INSTALLS):
            yield command, printed


def edit(folder: Path, lines: list[str]) -> None:
    """Make the edit of a diff."""
    name = lines[0].removeprefix("--- ")
    before, after = (
        "".join(f"{line[1:]}\n" for line in lines[1:] if line[:1] not in {hidden}) for hidden in ("+", "-")
    )
    text = (folder / name).read_text()
    assert text.count(before) == 1, f"{name} should hold once:\n{before}"
    (folder / name).write_text(text.replace(before, after))


def like(shown: str, printed: str) -> bool:
    """Whether a line is as the page shows it, numbers roughly."""
    pattern = r"(\d+(?:\.\d+)?)".join(re.escape(part) for part in NUMBER.split(" ".join(shown.split())))
    found = re.fullmatch(pattern.replace(re.escape("..."), ".*"), " ".join(printed.split()))
    pairs = zip(NUMBER.findall(shown), found.groups(), strict=True) if found else []
    return found is not None and all(float(mine) == pytest.approx(float(theirs), rel=LIKE) for mine, theirs in pairs)


def check(command: str, shown: list[str], printed: list[str]) -> None:
    """Every line that a page shows is among those printed, in this order."""
    rest = iter(printed)
    for line in shown:
        found = line == "..." or any(like(line, candidate) for candidate in rest)
        assert found, f"{command} should print {line!r}:\n" + "\n".join(printed)


def test_the_tutorial_works_to_the_letter(tmp_path: Path) -> None:
    folder, site = tmp_path / "my-ablation", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    (site / "kvbench").symlink_to(ROOT / "kvbench")  # and nothing else of the clone
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "KVBENCH_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    environment = {**kept, "PYTHONPATH": str(site), "PATH": path, "COLUMNS": "120", "PYTHONDONTWRITEBYTECODE": "1"}
    run = 0
    for language, lines in blocks(PAGE.read_text()):
        if language == "diff":
            edit(folder, lines)
            continue
        for command, shown in commands(lines):
            result = subprocess.run(
                command, shell=True, executable="/bin/bash", cwd=folder, env=environment, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            print(f"$ {command}\n{result.stdout}")
            check(command, shown, result.stdout.splitlines())
            red = "--kvbench-update-expected" in command or re.search(r"\d failed", "\n".join(shown)) is not None
            assert bool(result.returncode) == red, result.stdout
            run += 1
    assert run >= 10


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("mlp  0.163 ... holds", "mlp 0.165 more holds", True),
        ("mlp 0.163", "mlp 0.193", False),
        ("3 passed", "4 passed", False),
        ("3 passed in ...", "3 passed in 8.12s", True),
        ("a[linear] (n = 8)", "a[linear] (n = 8)", True),
        ("linear", "linear, and more", False),
    ],
)
def test_a_line_is_as_the_page_shows_it(shown: str, printed: str, same: bool) -> None:
    assert like(shown, printed) is same


def test_a_line_that_is_not_printed_is_told() -> None:
    check("run", ["one", "...", "three"], ["one", "two", "three"])
    with pytest.raises(AssertionError, match="run should print 'two'"):
        check("run", ["one", "two"], ["two", "one"])
