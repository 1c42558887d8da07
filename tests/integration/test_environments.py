"""The same tables in other environments: locale, time zone, threads, odd folders, no home, no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability.laboratory import Laboratory
from benchmarks.reliability.project import Project, Tables
from tests.support import ROOT

# In the process of the suite, before it starts. Python's audit events can't be evaded from within: any socket that is
# opened to another machine, or a name that is looked up, ends the run.
RUN = """\
import sys
from pathlib import Path
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
def watch(event, arguments):
    if event in FORBIDDEN:
        raise SystemExit(f"a network was used: {event} {arguments}")
sys.addaudithook(watch)
from benchmarks.reliability.project import suite
import torch
torch.set_num_threads(int(sys.argv[2]))
suite(Path(sys.argv[1]), (), None)
"""


def run(project: Project, environment: dict[str, str], threads: int) -> Tables:
    """Run the suite in a process that has these variables alone and no network, and return its tables."""
    said = subprocess.run(
        [sys.executable, "-c", RUN, str(project.folder), str(threads)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        cwd=project.folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    made = project.tables()
    assert made is not None, said.stderr + project.output
    return made


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "folder", "threads"),
    [
        pytest.param({**ASCII, "TZ": "Pacific/Kiritimati"}, "plain", 1, id="ASCII locale, a day ahead"),
        pytest.param(
            {"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "HOME": "/nonexistent"},
            "a folder with späces 漢字",
            2,
            id="UTF-8 locale, odd folder, no home, two threads",
        ),
    ],
)
def test_tables_are_the_same_and_no_network_is_used(
    environment: dict[str, str], folder: str, threads: int, laboratory: Laboratory, tmp_path: Path
) -> None:
    made = run(Project(tmp_path / folder, laboratory.project), environment, threads)
    assert made.histories == laboratory.expected.histories
    assert made.report.replace(f"- threads: {threads}\n", "- threads: 1\n") == laboratory.expected.report
