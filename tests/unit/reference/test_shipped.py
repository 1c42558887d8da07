"""References that ship with kvbench: read where a project has none of its own, and never written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.reference import store
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN
from tests.support.references import memory_runs


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reference of four configurations among those that ship."""
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "shipped")
    update(tmp_path / "shipped", "fractals", DESIGN, memory_runs(seeds=3), {}, full=True)
    return tmp_path / "shipped" / "fractals"


def test_a_projects_own_reference_comes_first(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "expected"
    assert store.find(own, "fractals", DESIGN) == shipped
    assert store.load(own, "fractals", DESIGN).folder == shipped
    assert store.find(own, "flowers", DESIGN) is None
    assert store.available(own, DESIGN) == ["fractals"]
    update(own, "fractals", DESIGN, memory_runs(["Model3"], seeds=2), {}, full=True)
    assert store.load(own, "fractals", DESIGN).folder == own / "fractals"


def test_an_update_of_one_configuration_starts_from_the_shipped_ones(shipped: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    update(tmp_path / "expected", "fractals", DESIGN, memory_runs(["Mine"], seeds=3), {})
    recorded = store.load(tmp_path / "expected", "fractals", DESIGN)
    assert recorded.folder == tmp_path / "expected" / "fractals"
    assert history.configurations(recorded.histories) == ["Model3", "Model4", "Model5", "Model6", "Mine"]
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before


def test_what_lies_nowhere_is_refused_with_what_ships(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no reference for flowers in .*expected \(there: fractals\)"):
        store.load(tmp_path / "expected", "flowers", DESIGN)


def test_a_name_does_not_lead_out_of_the_shipped_folder(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The name of a reference"):
        store.find(tmp_path / "expected", f"../{shipped.parent.name}/fractals", DESIGN)
