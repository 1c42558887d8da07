"""Frozen teachers, wherever their weights come from, and weights that do not fit."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.models import ResNet18_Weights, get_model

from kvbench.features.architecture import AUXILIARY, wnids
from kvbench.features.checkpoint import fitting, read_tensors
from kvbench.features.teacher import Teacher, build, from_checkpoint, frozen, pretrained
from kvbench.utils.errors import UserError
from tests.support.banks import tiny_teacher

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
    with pytest.raises(UserError, match=r"bad\.pt is no readable state dict.*objects of"):
        from_checkpoint(tmp_path / "bad.pt", "resnet18", TEN)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text", bytes(1000)])
def test_a_file_that_is_not_a_checkpoint_is_told(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"is no readable state dict"):
        read_tensors(tmp_path / name)


def test_a_checkpoint_that_is_cut_short_is_told(resnet18_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(resnet18_checkpoint.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"is no readable state dict"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("held", [torch.zeros(2), [torch.zeros(2)], {"a": 1}, {1: torch.zeros(1)}, {}])
def test_a_checkpoint_without_a_state_dict_is_told(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"holds no state dict"):
        read_tensors(tmp_path / "a.pt")


def test_a_dictionary_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    held: dict[str, Any] = {"w": torch.zeros(2)}
    held |= {str(i): held for i in range(100)}
    torch.save(held, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == [""]


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
    teacher = pretrained("resnet18", wnids())
    assert_frozen(teacher)
    assert_same(teacher, torch.load(imagenet_weights, weights_only=True))
    assert (teacher.name, teacher.classes) == ("resnet18", wnids())


def test_pretrained_weights_are_downloaded_and_their_hash_is_checked(
    imagenet_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", imagenet_weights.as_uri())
    assert_same(pretrained("resnet18", wnids()), torch.load(imagenet_weights, weights_only=True))
    assert (tmp_path / "hub" / "checkpoints" / imagenet_weights.name).is_file()


def test_a_download_that_fails_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", (tmp_path / "gone-01234567.pth").as_uri())
    with pytest.raises(
        UserError, match=r"Download file:.*gone-01234567\.pth .* put the file into .*home/hub/checkpoints"
    ):
        pretrained("resnet18", wnids())
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
        pretrained("resnet18", wnids())


def test_an_unknown_architecture_is_told_before_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"Unknown torchvision model 'resnet'"):
        pretrained("resnet", wnids())


# Checkpoints as other projects write them


TINY = "shufflenet_v2_x0_5"


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(TINY, 2).state_dict()


def load_tiny(held: object, folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Teacher:
    torch.save(held, folder / "a.pt")
    return from_checkpoint(folder / "a.pt", TINY, classes)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "net.encoder."]
)
def test_a_prefix_before_every_layer_is_taken_off(prefix: str, tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    assert_same(load_tiny(prefixed(tiny_state, prefix), tmp_path), tiny_state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"model_state_dict": s, "optimizer_state_dict": SGD(build(TINY, 2).parameters(), 0.1).state_dict()},
        lambda s: {"net": {"ema": s}},
        lambda s: {**s, "n_averaged": torch.tensor(4), "epoch": 3},
        lambda s: {"n_averaged": torch.tensor(4), **prefixed(s, "module.")},  # torch's AveragedModel
        lambda s: {
            "state_dict": {**prefixed(s, "model."), "loss.weight": torch.ones(2)},
            "hyper_parameters": {"lr": 1},
        },
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, name="x")},
        lambda s: {"model": s, "args": argparse.Namespace(out=Path("x"))},
        lambda s: {"model": s, "best": np.float64(0.7), "step": np.int64(3)},
        lambda s: {
            "args": argparse.Namespace(out=Path("x"), at=datetime(2026, 1, 1)),
            "losses": np.ones(3),
            "model": s,
        },
        lambda s: {"model": defaultdict(int, s), "rng": np.random.RandomState(0).get_state(), "call": partial(print)},
        lambda s: (s, {"lr": 0.1}),
        lambda s: {"models": [{"lr": 0.1}, s]},
        lambda s: {"model": s, "state_dict": dict(s)},  # the same twice
        lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
        OrderedDict,
    ],
)
def test_the_one_state_dict_that_fits_is_taken(
    wrap: Callable[[dict[str, Tensor]], object], tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_same(load_tiny(wrap(tiny_state), tmp_path), tiny_state)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda s, other: {"state_dict": s, "state_dict_ema": other}, "state_dict, state_dict_ema"),
        (lambda s, other: {**prefixed(s, "student."), **prefixed(other, "teacher.")}, "student, teacher"),
        (lambda s, other: {**s, **prefixed(other, "ema.")}, "ema, the outermost"),
    ],
)
def test_several_state_dicts_that_fit_are_named(
    wrap: Callable[..., object], names: str, tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    other = {k: v + 1 for k, v in tiny_state.items()}
    with pytest.raises(UserError, match=rf"holds 2 state dicts that fit: {names}\. Save the one"):
        load_tiny(wrap(tiny_state, other), tmp_path)


def test_layers_that_are_too_many_are_not_left_out(tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    for extra in ({"stage5.weight": torch.ones(2)}, {"width": torch.ones(2)}):
        with pytest.raises(UserError, match=rf"lacks nothing and has {next(iter(extra))} too many"):
            load_tiny({**tiny_state, **extra}, tmp_path)
        with pytest.raises(UserError, match=rf"lacks nothing and has {next(iter(extra))} too many"):
            load_tiny(prefixed({**tiny_state, **extra}, "module."), tmp_path)


def test_the_nearest_dictionary_is_the_one_that_is_told_of(tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    cut = {k: v for k, v in prefixed(tiny_state, "module.").items() if k != "module.conv1.0.weight"}
    with pytest.raises(UserError, match=r"lacks conv1\.0\.weight and has nothing too many"):
        load_tiny({"model": cut, "other": {"w": torch.ones(1)}}, tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer.*run git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n\n<html>", "a web page"),
        (b'{"a": 1}', "a JSON document"),
        (b"[1, 2]", "a JSON document"),
        (b"\x1f\x8b\x08\x00", "a gzip archive: unpack it first"),
        (b"hello, this is text", "it is damaged"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a"])
def test_a_file_that_is_something_else_is_named(content: bytes, sentence: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is no readable state dict .*: .*{sentence}"):
        read_tensors(tmp_path / name)


def test_an_archive_of_other_files_and_a_folder_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("weights.txt", "hello")
    with pytest.raises(UserError, match="an archive of other files"):
        read_tensors(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.txt", "hello" * 100)
    with pytest.raises(UserError, match="a compressed archive"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"Cannot read the checkpoint .*: Is a directory"):
        read_tensors(tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(program, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"it is a TorchScript program: save its tensors alone"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("length", [0x20, 0x120, 0x7B20])
def test_safetensors_are_told_by_their_header_whatever_its_length_spells(length: int, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
    (tmp_path / "a.pt").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert read_tensors(tmp_path / "a.pt")[""]["w"].tolist() == [0]


def test_what_torch_does_not_read_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save({"model": defaultdict(dict, {"a": {}})}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"is no readable state dict .*; save its tensors alone"):
        read_tensors(tmp_path / "a.pt")


def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(build(TINY, 2), tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"objects of torchvision\.models\.shufflenetv2\.ShuffleNetV2, .*state_dict\(\)"
    ):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pth", "a", "a.bin"])
def test_safetensors_are_read_whatever_their_suffix(name: str, tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tiny_state, tmp_path / name)
    assert_same(from_checkpoint(tmp_path / name, TINY, ("cat", "dog")), tiny_state)


def test_what_torch_saved_is_read_whatever_its_suffix(tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tiny_state, tmp_path / "a.safetensors")
    assert_same(from_checkpoint(tmp_path / "a.safetensors", TINY, ("cat", "dog")), tiny_state)


# Classes


SOME = ("n01440764", "n01443537", "n02102040")


def test_the_wordnet_ids_are_imagenets_in_their_order() -> None:
    known = wnids()
    assert len(known) == len({*known}) == 1000
    assert [*known] == sorted(known)
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    for wnid, name in [("n01440764", "tench"), ("n02102040", "English springer"), ("n02979186", "cassette player"),
                       ("n03888257", "parachute"), ("n15075141", "toilet tissue")]:  # fmt: skip
        assert categories[known.index(wnid)] == name


def test_data_of_some_of_imagenets_classes_take_these_outputs() -> None:
    known = wnids()
    teacher = Teacher("resnet18", nn.Identity(), known, "")
    assert teacher.outputs_for(SOME) == (0, 1, known.index("n02102040"))
    assert teacher.outputs_for(known) is None
    with pytest.raises(
        UserError,
        match=r"trained on 1,000 classes, and 1 of the data's 2 are not among them; only in the data: n99999999",
    ):
        teacher.outputs_for(("n01440764", "n99999999"))


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            ("cat", "dog"),
            r"data's 2 are not named by their WordNet ids, such as n01440764: cat, dog\. Instead, train a teacher",
        ),
        (("n01440764", "dog"), r"1 of the data's 2 are not among them; only in the data: dog"),
    ],
)
def test_classes_that_are_not_imagenets_are_told_before_any_download(
    classes: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=sentence) as told:
        pretrained("resnet18", classes)
    assert "kvbench teacher train" in str(told.value)


def test_a_checkpoint_of_imagenet_serves_data_of_some_of_its_classes(tmp_path: Path) -> None:
    torch.save(build(TINY, 1000).state_dict(), tmp_path / "a.pt")
    teacher = from_checkpoint(tmp_path / "a.pt", TINY, SOME)
    assert teacher.classes == wnids()
    assert teacher.outputs_for(SOME) == (0, 1, wnids().index("n02102040"))
    with pytest.raises(UserError, match=r"with the data's 2 classes: fc\.weight is \(1000, 1024\), not \(2, 1024\)"):
        from_checkpoint(tmp_path / "a.pt", TINY, ("cat", "dog"))


def test_recorded_classes_serve_data_of_some_of_them(tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"classes": ["dog", "cat"]}))
    assert load_tiny(tiny_state, tmp_path).outputs_for(("cat", "dog")) == (1, 0)
    with pytest.raises(
        UserError, match=r"trained on 2 classes, and 1 of the data's 2 are not among them; only in the data: horse"
    ):
        load_tiny(tiny_state, tmp_path, ("cat", "horse"))
    (tmp_path / "a.json").write_text(json.dumps({"classes": ["dog", "cat", "cow"]}))
    with pytest.raises(UserError, match=r"with the 3 classes of .*a\.json: fc\.weight is \(2, "):
        load_tiny(tiny_state, tmp_path)


def test_names_that_look_alike_are_explained(tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"classes": ["cafe\u0301", "dog"]}))
    with pytest.raises(UserError, match=r"look alike and are not: .*two Unicode forms.*Rename one of each pair"):
        load_tiny(tiny_state, tmp_path, ("caf\u00e9", "dog"))


def test_a_checkpoint_whose_record_names_another_architecture_says_so(
    tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"classes": ["cat", "dog"], "arch": TINY}))
    torch.save(tiny_state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt is of {TINY}, .* not of squeezenet1_1: .* --kvbench-teacher {TINY}"):
        from_checkpoint(tmp_path / "a.pt", "squeezenet1_1", ("cat", "dog"))
    assert_same(from_checkpoint(tmp_path / "a.pt", TINY, ("cat", "dog")), tiny_state)


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "{",
        '{"classes": 3}',
        '{"classes": [{"id": 0}, {"id": 1}]}',
        '{"classes": []}',
        '{"classes": ["cat"], "arch": 3}',
        '"x"',
    ],
)
def test_a_json_file_that_is_no_record_is_passed_over(
    record: str, tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(record)
    assert load_tiny(tiny_state, tmp_path).classes == ("cat", "dog")


def test_weights_without_a_classifier_are_told_apart_from_another_architecture(
    tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    features = {k: v for k, v in tiny_state.items() if not k.startswith("fc.")}
    with pytest.raises(UserError, match=r"it has no classifier, fc\.weight, fc\.bias\. .*kvbench teacher train"):
        load_tiny(prefixed(features, "backbone."), tmp_path)


# Modules of other shapes


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out(arch: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        whole = get_model(arch, weights=None, num_classes=2, aux_logits=True, init_weights=False)
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in whole.state_dict().items()}
    for held in (state, {k: v for k, v in state.items() if not k.lower().startswith("aux")}):
        torch.save(held, tmp_path / "a.pt")
        with torch.device("meta"):
            expected = build(arch, 2).state_dict()
        found = fitting(tmp_path / "a.pt", read_tensors(tmp_path / "a.pt"), expected, AUXILIARY[arch])
        assert found is not None
        assert found.keys() == expected.keys()


def test_a_transformer_is_made_for_the_size_of_the_images() -> None:
    with torch.device("meta"):
        assert build("vit_b_32", 2, 64)(torch.empty(1, 3, 64, 64)).shape == (1, 2)
        with pytest.raises(
            UserError, match=r"vit_b_32 cannot be made for images of 50 pixels: Input shape indivisible"
        ):
            build("vit_b_32", 2, 50)
        assert build("squeezenet1_1", 2, 50)(torch.empty(1, 3, 50, 50)).shape == (1, 2)


def test_wrappers_are_taken_off() -> None:
    compiled = partial(torch.compile, backend="eager")  # which backend is all the same, and this one loads soon
    net = tiny_teacher().module
    for wrapper in (nn.DataParallel(net), compiled(net), compiled(nn.DataParallel(net))):
        assert isinstance(wrapper, nn.Module)
        teacher = frozen("tiny", wrapper, TEN)
        assert teacher.module is net
        assert teacher.sha256 == tiny_teacher().sha256


def test_torchvisions_warnings_are_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*arguments: object, **_: object) -> nn.Module:
        for _again in range(2):
            warnings.warn("the default\n  will change", FutureWarning, stacklevel=2)
        return nn.Identity()

    monkeypatch.setattr(torchvision.models, "get_model", warn)
    with caplog.at_level(logging.INFO, logger="kvbench"):
        build("resnet18", 2)
    assert [record.message for record in caplog.records] == ["torchvision: the default will change"]
