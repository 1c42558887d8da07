"""References of the memory models, recorded once a module and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvbench.reference.update import update
from tests.support import DESIGN
from tests.support.references import PRINTS, STREAM, memory_runs, perturbed


@pytest.fixture(scope="module")  # not for the session: shipped references are hidden module by module
def memory_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reference of five seeds, called fractals."""
    folder = tmp_path_factory.mktemp("memory")
    update(folder, "fractals", DESIGN, memory_runs(), {"fingerprints": PRINTS})
    return folder


@pytest.fixture(scope="module")  # not for the session: shipped references are hidden module by module
def paired_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with replicates, and with the name of the random numbers."""
    folder = tmp_path_factory.mktemp("paired")
    facts = {"fingerprints": PRINTS, "random_numbers": STREAM}
    update(folder, "fractals", DESIGN, memory_runs(), facts, replicates=perturbed(memory_runs()))
    return folder


@pytest.fixture
def memory_folder(memory_reference: Path, tmp_path: Path) -> Path:
    """A copy of the plain reference, for one test."""
    shutil.copytree(memory_reference, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def paired_folder(paired_reference: Path, tmp_path: Path) -> Path:
    """A copy of the one with replicates, for one test."""
    shutil.copytree(paired_reference, tmp_path, dirs_exist_ok=True)
    return tmp_path
