"""Frozen teachers, wherever their weights come from, and weights that do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from kvbench.features.teacher import (
    Teacher,
    build,
    from_checkpoint,
    frozen,
    pretrained,
    read_state_dict,
)
from kvbench.utils.errors import UserError

TEN = tuple(f"ifs{k:04d}" for k in range(10))


@pytest.fixture(scope="session")
def imagenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's layout, named as torchvision names its files: with the start of their hash."""
    path = tmp_path_factory.mktemp("weights") / "made.pth"
    torch.save(build("resnet18", 1000).state_dict(), path)
    return path.rename(path.with_name(f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))


@pytest.fixture
def small_state(resnet18_checkpoint: Path) -> dict[str, Tensor]:
    return load_file(resnet18_checkpoint)


def assert_frozen(teacher: Teacher) -> None:
    assert not any(part.training for part in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())


def assert_same(teacher: Teacher, state: dict[str, Tensor]) -> None:
    held = teacher.module.state_dict()
    assert held.keys() == state.keys()
    assert all(torch.equal(held[k], v.to(held[k].dtype)) for k, v in state.items())


def test_a_teacher_is_frozen_and_in_eval_mode(resnet18_checkpoint: Path, small_state: dict[str, Tensor]) -> None:
    teacher = from_checkpoint(resnet18_checkpoint, "resnet18", TEN)
    assert_frozen(teacher)
    assert_same(teacher, small_state)
    assert teacher.classes == TEN


def test_the_fingerprint_tells_architecture_and_weights(resnet18_checkpoint: Path) -> None:
    one, same = (from_checkpoint(resnet18_checkpoint, "resnet18", TEN) for _ in range(2))
    assert one.fingerprint == same.fingerprint
    module = one.module
    module.get_buffer("bn1.running_mean")[0] += 1e-3
    assert frozen("resnet18", module, TEN).fingerprint["sha256"] != same.fingerprint["sha256"]
    assert frozen("other", same.module, TEN).fingerprint != same.fingerprint


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "arch": "resnet18", "best": torch.tensor(0.5), "state_dict": state}


@pytest.mark.parametrize("wrap", [dict, wrapped])
def test_a_torch_save_file_loads_as_it_is_or_under_state_dict(
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]], small_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(small_state), tmp_path / "a.pt")
    assert_same(from_checkpoint(tmp_path / "a.pt", "resnet18", TEN), small_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype, small_state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in small_state.items()}
    save_file(half, tmp_path / "half.safetensors")
    teacher = from_checkpoint(tmp_path / "half.safetensors", "resnet18", TEN)
    assert {p.dtype for p in teacher.module.parameters()} == {torch.float32}
    assert_same(teacher, half)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_missing_checkpoint_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"No checkpoint file .*nowhere\.{suffix}"):
        from_checkpoint(tmp_path / f"nowhere.{suffix}", "resnet18", TEN)


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("where", ["alone", "among tensors"])
def test_code_in_a_checkpoint_is_never_run(where: str, tmp_path: Path) -> None:
    bad = Malicious(tmp_path / "ran")
    torch.save(bad if where == "alone" else {"conv1.weight": torch.zeros(1), "state_dict": bad}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt is no readable state dict"):
        from_checkpoint(tmp_path / "bad.pt", "resnet18", TEN)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_told(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"is no readable state dict"):
        read_state_dict(tmp_path / name)


def test_a_checkpoint_that_is_cut_short_is_told(resnet18_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(resnet18_checkpoint.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"is no readable state dict"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("held", [torch.zeros(2), [torch.zeros(2)], {"a": 1}, {"a": {"b": torch.zeros(1)}}])
def test_a_checkpoint_without_a_state_dict_is_told(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"holds no state dict"):
        read_state_dict(tmp_path / "a.pt")


def test_a_checkpoint_of_other_classes_says_how_many_were_expected(resnet18_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit resnet18 with the data's 12 classes: fc\.weight is \(10, 512\)"):
        from_checkpoint(resnet18_checkpoint, "resnet18", (*TEN, "a", "b"))


def test_a_checkpoint_of_another_architecture_names_layers(resnet18_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit resnet34: it lacks layer\d.* has nothing too many"):
        from_checkpoint(resnet18_checkpoint, "resnet34", TEN)
    with pytest.raises(UserError, match=r"Unknown torchvision model 'resnet19'\. Did you mean resnet18"):
        from_checkpoint(resnet18_checkpoint, "resnet19", TEN)


def test_pretrained_weights_come_from_torchvisions_cache(
    imagenet_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.symlink_to(imagenet_weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    teacher = pretrained("resnet18")
    assert_frozen(teacher)
    assert_same(teacher, torch.load(imagenet_weights, weights_only=True))
    assert (teacher.name, teacher.classes) == ("resnet18", None)


def test_pretrained_weights_are_downloaded_and_their_hash_is_checked(
    imagenet_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", imagenet_weights.as_uri())
    assert_same(pretrained("resnet18"), torch.load(imagenet_weights, weights_only=True))
    assert (tmp_path / "hub" / "checkpoints" / imagenet_weights.name).is_file()


def test_a_download_that_fails_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", (tmp_path / "gone-01234567.pth").as_uri())
    with pytest.raises(UserError, match=r"could not download its weights for resnet18 .*--kvbench-checkpoint"):
        pretrained("resnet18")
    assert not list((tmp_path / "home").rglob("*.pth"))


@pytest.mark.parametrize("where", ["downloaded", "cached"])
def test_damaged_pretrained_weights_are_told(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "resnet18-01234567.pth"
    source.write_bytes(b"not what was asked for")
    if where == "cached":
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        source.rename(tmp_path / "hub" / "checkpoints" / source.name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", source.as_uri())
    with pytest.raises(UserError, match=r"weights for resnet18"):
        pretrained("resnet18")


def test_an_unknown_architecture_is_told_before_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"Unknown torchvision model 'resnet'"):
        pretrained("resnet")
