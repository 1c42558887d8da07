"""What names of teachers stand for: torchvision's models, timm's, and functions of the user's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kvbench.data.base import Transform
from kvbench.features.architecture import SOURCES_TAPS, architecture, wnids
from kvbench.features.teacher import build, default_taps, from_checkpoint, frozen, pretrained, tappable
from kvbench.utils.errors import UserError
from tests.support import tiny_resnet
from tests.support.banks import TEN, Dots
from tests.support.tiny_resnet import TinyResNet

IMAGES = Dots(4)


# torchvision's


@pytest.mark.parametrize(
    ("arch", "size", "transform"),
    [
        ("resnet50", 224, Transform(232)),
        ("swin_t", 224, Transform(232, "bicubic")),
        ("inception_v3", 299, Transform(342)),
        ("vit_h_14", 518, Transform(518, "bicubic")),
        ("efficientnet_v2_l", 480, Transform(480, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ("resnet18", 224, None),  # the source's
        (tiny_resnet.NAME, None, None),  # without weights
    ],
)
def test_size_and_transform_are_those_of_the_weights(arch: str, size: int | None, transform: Transform | None) -> None:
    found = architecture(arch)
    assert (found.name, found.size, found.transform(size or 64)) == (arch, size, transform)
    assert found.classes == wnids()


def test_images_of_another_size_are_resized_in_proportion() -> None:
    assert architecture("resnet50").transform(112) == Transform(116)


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown torchvision model 'convnext_tny'\. Did you mean convnext_tiny"):
        architecture("convnext_tny")


def test_a_model_without_weights_says_so() -> None:
    with pytest.raises(UserError, match=rf"torchvision has no weights for {tiny_resnet.NAME}: .*--kvbench-checkpoint"):
        pretrained(tiny_resnet.NAME, wnids())


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch, "load", refuse)


@pytest.mark.parametrize(
    ("arch", "taps", "widths", "shape"),
    [
        ("convnext_tiny", ("features.3", "features.5", "features.7"), (192, 384, 768), (192, 28, 28)),
        ("swin_t", ("features.3", "features.5", "features.7"), (192, 384, 768), (28, 28, 192)),
        ("vit_b_32", tuple(f"encoder.layers.encoder_layer_{i}" for i in (9, 10, 11)), (768,) * 3, (50, 768)),
        ("efficientnet_b0", ("features.3", "features.5", "features.8"), (40, 112, 1280), (40, 28, 28)),
        ("mobilenet_v3_large", ("features.6", "features.12", "features.16"), (40, 112, 960), (40, 28, 28)),
        ("vgg11", ("features.9", "features.14", "features.19"), (256, 512, 512), (256, 56, 56)),
    ],
)
@pytest.mark.usefixtures("nothing_loaded")
def test_the_taps_of_a_named_model_are_its_last_three_stages(
    arch: str, taps: tuple[str, ...], widths: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    stranger = frozen("stranger", nn.Identity(), None)  # is not asked
    assert default_taps(arch, stranger, IMAGES) == taps
    found = {tap.path: tap for tap in tappable(arch)}
    assert tuple(found[tap].width for tap in taps) == widths
    assert found[taps[0]].shape == shape


def test_resnet18_keeps_the_sources_taps() -> None:
    assert default_taps("resnet18", frozen("resnet18", nn.Identity(), None), IMAGES) == SOURCES_TAPS
    assert SOURCES_TAPS == ("layer3.1", "layer4.0", "layer4.1")


@pytest.mark.usefixtures("nothing_loaded")
def test_what_can_be_tapped_is_listed_for_images_of_a_size() -> None:
    assert {tap.path: tap.shape for tap in tappable("swin_t", 64)}["features.5"] == (4, 4, 384)
    assert {tap.path: tap.shape for tap in tappable("vit_b_32", 64)}["encoder"] == (5, 768)
    with pytest.raises(UserError, match="vit_b_32 cannot be made for images of 50 pixels"):
        tappable("vit_b_32", 50)
    with pytest.raises(UserError, match=r"inception_v3 does not take images of 32 by 32 .*--kvbench-set size=299"):
        tappable("inception_v3", 32)


def test_a_model_without_weights_is_passed_an_image_of_the_data() -> None:
    with torch.random.fork_rng():
        teacher = frozen("tiny", TinyResNet(10), TEN)
    assert default_taps(tiny_resnet.NAME, teacher, IMAGES) == ("layer2", "layer3", "layer4")


def test_a_teacher_without_three_stages_asks_for_taps_and_names_some() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    def small(_classes: int) -> nn.Module:
        return net

    with pytest.raises(UserError, match=r"small has no three stages .* --kvbench-taps, such as 0,1\.$"):
        default_taps(small, frozen("small", net, TEN), IMAGES)


# Functions of the user's


def tiny(classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        return TinyResNet(classes)


def test_a_function_is_called_by_its_module_and_name() -> None:
    found = architecture(tiny)
    assert found.name == f"{__name__}:tiny"
    assert architecture(functools.partial(tiny)).name == "functools:partial"
    assert (found.size, found.classes, found.transform(32), found.taps) == (None, None, None, ())


def test_the_teacher_of_a_function_is_what_it_returns() -> None:
    teacher = pretrained(tiny, TEN)
    state = tiny(10).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in teacher.module.state_dict().items())
    assert not teacher.module.training
    assert teacher.classes is None, "its outputs are the data's classes, in their order"
    assert default_taps(tiny, teacher, IMAGES) == ("layer2", "layer3", "layer4")


def test_a_checkpoint_fits_what_a_function_returns(tmp_path: Path) -> None:
    path = tiny_resnet.save(tmp_path / "a.safetensors")
    teacher = from_checkpoint(path, tiny, TEN)
    assert teacher.name == architecture(tiny).name
    weight = from_checkpoint(path, tiny_resnet.NAME, TEN).module.get_parameter("fc.weight")
    assert torch.equal(teacher.module.get_parameter("fc.weight"), weight)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder, which is on no path, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch.nn as nn\n"
        "class Net(nn.Sequential): pass\n"
        "def teacher(classes): return Net(nn.Flatten(), nn.Linear(3, classes))\n"
        "def broken(classes): return nn.Linear(3)\n"
        "def text(classes): return 'resnet50'\n"
        "WIDTH = 3\n"
    )
    yield path
    sys.modules.pop("mine", None)


def test_a_function_is_found_by_its_name_in_the_current_folder(package: Path) -> None:
    found = architecture("mine:teacher")
    assert found.name == "mine:teacher" == architecture(sys.modules["mine"].teacher).name
    assert build("mine:teacher", 7)(torch.rand(2, 3, 1, 1)).shape == (2, 7)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("gone:teacher", r"^Cannot import the teacher gone:teacher: ModuleNotFoundError: No module named 'gone'\.$"),
        ("mine:teachr", r"Unknown function of mine 'teachr'\. Did you mean teacher\? Valid: teacher, broken, text\."),
        ("mine:WIDTH", r"Unknown function of mine 'WIDTH'"),
        ("mine:", r"Unknown function of mine ''"),
        (":teacher", r"Cannot import the teacher :teacher: ValueError"),
        ("mine:broken", r"mine:broken cannot be made: called with 7 \(classes\), it raises TypeError: .*mine\.py"),
        ("mine:text", r"mine:text cannot be made: .* it returns str; valid is a torch\.nn\.Module\.$"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_function_that_does_not_serve_is_a_sentence(arch: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(arch, 7)


def test_a_module_that_cannot_be_imported_names_the_line(package: Path) -> None:
    package.write_text("import torch\n\nassert False, 'not today'\n")
    with pytest.raises(UserError, match=r"teacher mine:a: AssertionError: not today \(.*mine\.py, line 3"):
        architecture("mine:a")


def test_the_code_of_a_users_teacher_decides_its_fingerprint(package: Path) -> None:
    def fingerprint() -> dict[str, str]:
        sys.modules.pop("mine", None)
        sys.path_importer_cache.clear()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return pretrained("mine:teacher", TEN).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    package.write_text(package.read_text().replace("pass", "relu = True"))
    after = fingerprint()
    assert (after["name"], after["sha256"]) == (before["name"], before["sha256"])
    assert after["code"] != before["code"]
    assert "code" not in frozen("resnet18", nn.Identity(), None).fingerprint, "keys of banks stay"


# timm's


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, without a network and with an empty cache."""
    library = pytest.importorskip("timm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return library


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm:resnet50 needs timm \(.*\): pip install 'kvbench\[timm\]'\."):
        architecture("timm:resnet50")


@pytest.mark.usefixtures("timm")
def test_a_timm_model_has_the_size_transform_and_classes_of_its_weights() -> None:
    found = architecture("timm:vit_tiny_patch16_224")
    assert (found.name, found.size, found.one_size) == ("timm:vit_tiny_patch16_224", 224, True)
    assert found.transform(224) == Transform(248, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert found.classes == wnids()
    whole = architecture("timm:convnext_tiny.fb_in22k")
    assert (whole.outputs, len(whole.classes or ()), whole.one_size) == (21841, 21841, False)
    assert {"n01440764", "n15075141"} <= {*(whole.classes or ())}


@pytest.mark.parametrize(
    ("arch", "taps"),
    [
        ("resnet10t", ("layer2", "layer3", "layer4")),
        ("vit_tiny_patch16_224", ("blocks.9", "blocks.10", "blocks.11")),
        ("swin_tiny_patch4_window7_224", ("layers.1", "layers.2", "layers.3")),
        ("mobilenetv3_small_050", ("blocks.1", "blocks.3", "blocks.5")),
        ("convnext_atto", ("stages.1", "stages.2", "stages.3")),
    ],
)
@pytest.mark.usefixtures("timm")
def test_the_taps_of_a_timm_model_are_its_last_three_stages(arch: str, taps: tuple[str, ...]) -> None:
    assert default_taps(f"timm:{arch}", frozen("stranger", nn.Identity(), None), IMAGES) == taps


@pytest.mark.usefixtures("timm")
def test_a_timm_transformer_is_made_for_the_size_of_the_images() -> None:
    assert build("timm:vit_tiny_patch16_224", 5, 64)(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    assert build("timm:resnet10t", 5, 64)(torch.rand(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("timm:resnet5", r"timm has no model 'resnet5'\. Did you mean resnet50"),
        ("timm:resnet50.a9", r"Unknown weights of timm:resnet50 'a9'\. .*a1_in1k"),
        ("timm:", r"timm has no model ''\. It lists its"),
    ],
)
@pytest.mark.usefixtures("timm")
def test_what_timm_does_not_have_is_a_sentence(arch: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        architecture(arch)


@pytest.mark.usefixtures("timm")
def test_timm_weights_that_cannot_be_loaded_are_told() -> None:
    with pytest.raises(UserError, match=r"could not load its weights for timm:resnet10t: .*--kvbench-checkpoint"):
        pretrained("timm:resnet10t", wnids())
    with pytest.raises(UserError, match=r"timm:darknet17 has no pretrained classifier: .*--kvbench-checkpoint"):
        pretrained("timm:darknet17", wnids())


def test_timm_weights_come_from_its_cache(timm: Any, tmp_path: Path) -> None:
    made = timm.create_model("resnet10t").state_dict()
    home = tmp_path / f"models--{timm.get_pretrained_cfg('resnet10t').hf_hub_id.replace('/', '--')}"
    for name, text in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/config.json", "{}")):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
    save_file(made, home / "snapshots" / ("0" * 40) / "model.safetensors")
    teacher = pretrained("timm:resnet10t", ("n01440764", "n01443537"))
    assert teacher.outputs_for(("n01440764", "n01443537")) == (0, 1)
    assert all(torch.equal(value, made[key]) for key, value in teacher.module.state_dict().items())


@pytest.mark.usefixtures("timm")
def test_classes_that_timm_weights_do_not_know_are_told_before_any_download() -> None:
    with pytest.raises(UserError, match=r"weights of timm:resnet10t know 1,000 classes of ImageNet, and the data's 10"):
        pretrained("timm:resnet10t", TEN)
