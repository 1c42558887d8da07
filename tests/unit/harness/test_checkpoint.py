"""A run's state as a file: training goes on bit by bit, and nothing but that run's own state is taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kvbench.core.bank import FeatureBank
from kvbench.core.run import Run
from kvbench.harness import checkpoint
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from tests.support.banks import largest_file

NAMES = ["Model1", "lr_Model1", "Model3", "lr_Model3", "Model4", "lr_Model4", "Model7", "lr_Model7"]


def bank(count: int, seed: int) -> FeatureBank:
    g = torch.Generator().manual_seed(seed)
    taps = tuple(torch.randn(count, d, generator=g) for d in (4, 6, 6))
    return FeatureBank(taps, 2 * torch.randn(count, 5, generator=g), torch.randint(5, (count,), generator=g))


def fresh(name: str = "Model3", seed: int = 3) -> Run:
    changes: dict[str, Any] = {"epochs": 5, "lr": 1e-2, "batch_size": 32}
    rows = {row.id: row for row in STUDY.configurations([replace(recipe, **changes) for recipe in STUDY.recipes])}
    return Run(rows[name], bank(100, 0), bank(40, 1), seed)


def train(run: Run, epochs: int) -> Run:
    for _ in range(epochs):
        run.epoch()
        run.evaluate()
    return run


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The state of Model3, seed 3, after two epochs."""
    path = tmp_path / "seed-3.safetensors"
    checkpoint.save(train(fresh(), 2), path, "key")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_run_ends_in_the_same_history_and_the_same_weights(name: str, tmp_path: Path) -> None:
    whole = train(fresh(name), 5)
    path = tmp_path / "state.safetensors"
    checkpoint.save(train(fresh(name), 3), path, "key")
    torch.randn(7)  # whatever else draws
    later = fresh(name)
    checkpoint.restore(later, path, "key")
    assert later.epochs_done == 3
    train(later, 2)
    assert timeless(later) == timeless(whole)
    for one, other in zip(later.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert later.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_seconds_are_restored_as_they_were(saved: Path) -> None:
    earlier, later = train(fresh(), 1), fresh()
    checkpoint.save(earlier, saved, "key")
    checkpoint.restore(later, saved, "key")
    assert later.history == earlier.history


def test_of_a_finished_run_the_history_alone_is_kept(saved: Path) -> None:
    run = train(fresh(), 5)
    before = saved.stat().st_size
    checkpoint.save(run, saved, "key")
    assert load_file(saved) == {}
    assert saved.stat().st_size < before / 10
    later = fresh()
    checkpoint.restore(later, saved, "key")
    assert later.done
    assert later.history == run.history


def test_a_state_appears_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(train(fresh(), 3), saved, "key")
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_state_that_cannot_be_written_is_told_and_leaves_nothing(saved: Path) -> None:
    before = saved.read_bytes()
    with largest_file(4096), pytest.raises(UserError, match=r"^Cannot write .*seed-3\.safetensors: File too large\.$"):
        checkpoint.save(train(fresh(), 3), saved, "key")
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# Damage


def untouched(run: Run, path: Path, key: str = "key") -> str:
    """What restoring says, which must leave the run as it was."""
    weights = [p.clone() for p in run.module.parameters()]
    order = run.order.get_state()
    with pytest.raises(UserError) as told:
        checkpoint.restore(run, path, key)
    assert all(torch.equal(one, other) for one, other in zip(weights, run.module.parameters(), strict=True))
    assert torch.equal(order, run.order.get_state())
    assert run.history == []
    assert run.epochs_done == 0
    assert not run.optimizer.state
    return str(told.value)


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    draw = torch.Generator().manual_seed(0)
    places = [*range(0, 12), *torch.randint(len(whole), (50,), generator=draw).tolist()]
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        saved.write_bytes(flipped)
        run = fresh()
        try:
            checkpoint.restore(run, saved, "key")
        except UserError:
            noticed += 1
        else:  # a bit that says nothing, such as one of the header's padding
            assert timeless(train(run, 3)) == timeless(train(fresh(), 5))
    assert noticed > 0.95 * len(places)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_state_is_noticed(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be used" in untouched(fresh(), saved)


def test_anything_else_is_noticed(saved: Path) -> None:
    saved.write_bytes(b"\x80\x04K\x01.")  # a pickle of 1
    untouched(fresh(), saved)
    save_file({}, saved)
    untouched(fresh(), saved)
    saved.unlink()
    untouched(fresh(), saved)


def test_another_runs_state_is_refused(saved: Path) -> None:
    assert "another run" in untouched(fresh(), saved, key="another")
    assert "not that of this run" in untouched(fresh(seed=4), saved)
    assert "not that of this run" in untouched(fresh("Model4"), saved)


def forge(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """Change a state and give it the checksum that fits."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    tensors = load_file(path)
    change(tensors, facts)
    text = json.dumps(facts)
    made = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    save_file(tensors, path, {"facts": text, "sha256": made.hexdigest()})


GONE = object()


def put(facts: dict[str, Any], path: tuple[str | int, ...], changes: dict[str | int, Any]) -> None:
    """Change entries of a dictionary of the state; `GONE` removes one."""
    here = facts["state"]
    for name in path:
        here = dict(map(tuple, here["dict"]))[name] if "dict" in here else here["list"][name]
    entries = {**dict(map(tuple, here["dict"])), **changes}
    here["dict"] = [[name, value] for name, value in entries.items() if value is not GONE]


KEY = ("module",)
BIAS = "heads.0.key.bias"
FIRST = ("optimizer", "state", 0)
GROUP = ("optimizer", "param_groups", 0)
THREE = {"tensor": [0, "float32", [3], [1], 0, False]}
OUTSIDE = {"tensor": [0, "float32", [3], [1], 10**9, False]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t, f: put(f, KEY, {BIAS: THREE}), "heads.0.key.bias is laid out as {'tensor': [0, 'float32', [3]"),
        (lambda t, f: put(f, KEY, {BIAS: GONE}), "heads.0.key.bias is missing or not known"),
        (lambda t, f: put(f, KEY, {"more": THREE}), "more is missing or not known"),
        (lambda t, f: put(f, FIRST, {"exp_avg": THREE}), "exp_avg of parameter 0 has the shape (3,)"),
        (lambda t, f: put(f, FIRST, {"exp_avg": OUTSIDE}), "cannot be used"),
        (lambda t, f: put(f, FIRST, {"more": THREE}), "more of parameter 0"),
        (lambda t, f: put(f, ("optimizer", "state"), {99: {"dict": []}}), "no parameter 99"),
        (lambda t, f: put(f, GROUP, {"eps": 1.0}), "other settings"),
        (lambda t, f: put(f, GROUP, {"more": 1.0}), "other settings"),
        (lambda t, f: put(f, GROUP, {"lr": 1e6}), "schedule is another"),
        (lambda t, f: put(f, ("optimizer",), {"param_groups": {"list": []}}), "other groups"),
        (lambda t, f: put(f, (), {"order": THREE}), "no generator's state"),
        (lambda t, f: put(f, (), {"scheduler": {"dict": [["step_size", 1]]}}), "schedule is another"),
        (lambda t, f: put(f, (), {"extra": {"dict": [["", 1]]}}), "those of another student"),
        (lambda t, f: put(f, (), {"random": 1}), "cannot be used"),
        (lambda t, f: t.pop("cpu.0"), "cannot be used"),
        (lambda t, f: t.update({"cpu.0": t["cpu.0"][:-4]}), "the student has"),
        (lambda t, f: f.update(state={"function": []}), "cannot be used"),
        (lambda t, f: f["history"][0].update(train_loss="low"), "its history"),
        (lambda t, f: f["history"][1].update(val_accuracy=2.0), "its history"),
        (lambda t, f: f["history"][1].pop("train_loss"), "its history"),
        (lambda t, f: f.update(epochs_done=3), "history is not that of this run"),
        (lambda t, f: f.update(epochs_done=10**12), "history is not that of this run"),
        (lambda t, f: f["history"][1].update(more=1), "its history has unknown columns more"),
        (lambda t, f: f.update(epochs_done="2"), "cannot be used"),
        (lambda t, f: f.update(history=[1, 2]), "cannot be used"),
        (lambda t, f: f.pop("key"), "cannot be used"),
        (lambda t, f: f.update(format=99), "another run"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_right_checksum_too(
    saved: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object], told: str
) -> None:
    forge(saved, lambda *_: None)
    checkpoint.restore(fresh(), saved, "key")  # the forged checksum itself is right
    forge(saved, change)
    assert told in untouched(fresh(), saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", ""])
def test_facts_that_are_none_are_refused_with_a_right_checksum_too(saved: Path, text: str) -> None:
    save_file({}, saved, {"facts": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    assert "cannot be used" in untouched(fresh(), saved)


@pytest.mark.parametrize(
    ("name", "value"), [("last_epoch", 1), ("gamma", "0.1"), ("_last_lr", {"list": [1.0]}), ("more", 1)]
)
def test_another_schedule_is_refused_with_a_right_checksum_too(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(train(fresh("lr_Model3"), 2), path, "key")
    forge(path, lambda _, facts: put(facts, ("scheduler",), {name: value}))
    assert "schedule is another" in untouched(fresh("lr_Model3"), path)
