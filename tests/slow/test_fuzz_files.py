"""Files that anyone may have made: every reader gives back something that can be used, or says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from kvbench.core.hooks import capture
from kvbench.data import layouts as listing
from kvbench.features import teacher
from kvbench.harness import options
from kvbench.reference import verdicts
from kvbench.reference.store import load
from kvbench.reporting.contents import of_expected
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.fuzz import edited, edits, fuzz, safe, said, spoil, spoilt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strange")


HOME = EXPECTED / "imagenet"
SOME = [
    row for row in (HOME / "histories.csv").read_text().splitlines() if row.startswith(("conf", "Model1,", "Model3,"))
]
FILES = {
    "histories.csv": "\n".join(SOME).encode(),
    "verdicts.csv": (HOME / "verdicts.csv").read_bytes(),
    "replicates.csv": "\n".join(SOME).encode(),
    "provenance.json": (HOME / "provenance.json").read_bytes(),
}


def reference(place: Path, **changed: bytes) -> object:
    folder = place / "imagenet"
    folder.mkdir(exist_ok=True)
    for name, whole in FILES.items():
        (folder / name).write_bytes(changed.get(name.partition(".")[0], whole))
    return said(lambda: of_expected(place, "imagenet", DESIGN).markdown())


@fuzz
@given(edits)
@example([("replace", 0, {"Model1": [10**12] * 5})])
def test_an_edited_provenance(place: Path, changes: list[Any]) -> None:
    facts = json.loads(FILES["provenance.json"])
    facts = {"epochs": [1, 2], "flops_per_sample": {"Model1": 3}, "random_numbers": "x", "fingerprints": {}, **facts}
    safe(reference(place, provenance=json.dumps(edited(facts, changes)).encode()))


@fuzz
@given(st.sampled_from(["histories", "verdicts", "provenance", "replicates"]), spoilt)
def test_a_reference_of_spoilt_bytes(place: Path, name: str, changes: list[Any]) -> None:
    whole = next(whole for file, whole in FILES.items() if file.startswith(name))
    safe(reference(place, **{name: spoil(whole, changes)}))


@fuzz
@given(st.binary() | st.text(alphabet='ab,"\r\n\x00 1.-', max_size=60).map(str.encode))
@example(b"configuration,seed,epoch,train_loss,val_accuracy\n" + b"a" * 200_000 + b",0,1,1,1\n")
@example(b"configuration,seed,epoch,train_loss,val_accuracy\nM,0,1000000000000,1,1\n")
def test_any_table(place: Path, whole: bytes) -> None:
    (place / "table.csv").write_bytes(whole)
    said(lambda: history.read(place / "table.csv"))
    said(lambda: verdicts.read(place / "table.csv"))


STATE = {"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3), "steps": torch.tensor(1)}


@fuzz
@given(st.sampled_from(["safetensors", "pt"]), spoilt | st.just([]), st.binary())
def test_a_checkpoint_of_any_bytes(place: Path, kind: str, changes: list[Any], other: bytes) -> None:
    path = place / f"weights.{kind}"
    if kind == "safetensors":
        path.write_bytes(save(STATE))
    else:
        torch.save(STATE, path)
    path.write_bytes(spoil(path.read_bytes(), changes) if changes else other)
    said(lambda: teacher.from_checkpoint(path, "resnet18", ("a", "b", "c")))


@pytest.mark.parametrize(
    "state",
    [
        {"x": torch.zeros(1).expand(10**6, 10**6)},
        {1: torch.zeros(1), "a": torch.zeros(2)},
        {"x": torch.zeros(2).to_sparse()},
        {"x": torch.zeros(2, device="meta")},
        {"x": torch.zeros(2, dtype=torch.complex64)},
        {"state_dict": 3},
        [torch.zeros(1)],
    ],
    ids=str,
)
def test_a_checkpoint_of_strange_tensors(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt"):
        teacher.from_checkpoint(tmp_path / "weights.pt", "resnet18", ("a", "b"))


@fuzz
@given(st.text() | st.from_regex(r"-?[0-9]{0,20}:?-?[0-9]{0,20}", fullmatch=True))
@example("1000000000000")
@example("0:999999999999999999999")
@example("9" * 5000)
def test_options_of_any_text(text: str) -> None:
    seeds = said(lambda: options.parse_seeds(text))
    assert seeds is None or isinstance(seeds, tuple)
    taps = options.parse_taps(text)
    if taps:
        said(lambda: capture(torch.nn.Sequential(torch.nn.Linear(1, 1)), taps).__enter__())


@fuzz
@given(
    st.binary() | st.lists(st.text(alphabet="abn/\\.\t\x00\u202e0", max_size=20)).map(lambda v: "\n".join(v).encode())
)
@example(b"../../../etc/passwd\tn0\t0")
@example(b"a\x00b.JPEG\tn0\t0")
def test_any_annotations(place: Path, whole: bytes) -> None:
    root = place / "tiny"
    (root / "train" / "n0" / "images").mkdir(parents=True, exist_ok=True)
    (root / "train" / "n0" / "images" / "a.JPEG").touch()
    (root / "val").mkdir(exist_ok=True)
    (root / "val" / "val_annotations.txt").write_bytes(whole)
    listed = said(lambda: listing.tiny_imagenet(root, "val"))
    for path, _ in listed[0] if isinstance(listed, tuple) else ():
        assert Path(path).parent == root / "val" / "images"


@pytest.mark.parametrize("name", ["../imagenet", "/etc", "..", ".", "", "a\\b", "C:x", "a\x00b", "a\x1bb", "a" * 300])
def test_a_reference_lies_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="valid is a name that can be a folder's"):
        load(EXPECTED, name, DESIGN)
