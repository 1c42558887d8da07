"""Teachers of many architectures, with random weights: their default taps give features that students train on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kvbench.core.run import Run
from kvbench.features.extract import check
from kvbench.features.spec import BankSettings
from kvbench.features.teacher import build, default_taps, frozen, tappable
from tests.support.banks import TEN, Dots, in_memory
from tests.support.trainer import config, history

LAYERS = "encoder.layers.encoder_layer_"
SMALL = 64  # pixels: as few as all of them take
MODELS = {
    "resnet50": (("layer2", "layer3", "layer4"), (512, 1024, 2048)),
    "convnext_tiny": (("features.3", "features.5", "features.7"), (192, 384, 768)),
    "swin_t": (("features.3", "features.5", "features.7"), (192, 384, 768)),
    "vit_b_32": ((f"{LAYERS}9", f"{LAYERS}10", f"{LAYERS}11"), (768, 768, 768)),
    "efficientnet_b0": (("features.3", "features.5", "features.8"), (40, 112, 1280)),
    "mobilenet_v3_large": (("features.6", "features.12", "features.16"), (40, 112, 960)),
    "timm:resnet26": (("layer2", "layer3", "layer4"), (512, 1024, 2048)),
    "timm:vit_tiny_patch16_224": (("blocks.9", "blocks.10", "blocks.11"), (192, 192, 192)),
    "timm:swin_tiny_patch4_window7_224": (("layers.1", "layers.2", "layers.3"), (192, 384, 768)),
}


class Larger(Dots):
    """Images of `SMALL` pixels."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = super().__getitems__(indices)
        return torch.nn.functional.interpolate(images, SMALL), labels


@pytest.mark.parametrize("arch", MODELS)
def test_students_train_on_the_default_taps(arch: str) -> None:
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = frozen(arch, build(arch, 10, SMALL), TEN)
    taps, widths = MODELS[arch]
    images = Larger(6)
    assert default_taps(arch, teacher, images) == taps
    settings = BankSettings(images, teacher, taps)
    check(settings)
    bank = in_memory(settings)
    assert bank.widths == widths
    for tap in bank.taps:
        assert float(tap.std(0).max()) > 0, "it tells images apart"
    row = config("Model3", epochs=1)
    assert len(history(Run(row, bank, bank, seed=0))) == 1
    assert len(row.student.taps) == len(taps)


def test_a_token_tap_is_the_mean_of_its_tokens_and_a_map_with_channels_last_that_of_its_places() -> None:
    for arch, axes in (("vit_b_32", (1,)), ("swin_t", (1, 2))):
        with torch.random.fork_rng():
            teacher = frozen(arch, build(arch, 10, SMALL), TEN)
        images, (taps, _) = Larger(4), MODELS[arch]
        bank = in_memory(BankSettings(images, teacher, taps))
        seen: list[Tensor] = []
        part = teacher.module.get_submodule(taps[-1])
        handle = part.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            teacher.module(images.__getitems__([*range(4)])[0])
        handle.remove()
        assert torch.allclose(bank.taps[-1], seen[0].mean(axes), atol=1e-4)


@pytest.mark.parametrize(
    "arch",
    ["alexnet", "densenet121", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5",
     "mobilenet_v2", "regnet_x_400mf", "resnet34", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0",
     "swin_v2_t", "vgg11_bn", "vit_h_14", "wide_resnet50_2"],
)  # fmt: skip
def test_every_family_of_torchvisions_has_default_taps_that_grow_wider_and_smaller(arch: str) -> None:
    taps = default_taps(arch, frozen("stranger", torch.nn.Identity(), None), Larger(1))
    found = {tap.path: tap for tap in tappable(arch)}
    widths, places = zip(*((found[tap].width, found[tap].places) for tap in taps), strict=True)
    assert len(taps) == 3
    assert list(widths) == sorted(widths)
    assert list(places) == sorted(places, reverse=True)


def test_the_largest_model_is_listed_in_little_memory() -> None:
    # A process's peak counts that of the one that it was forked from: a small one lies between.
    between = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'kvbench', 'taps', 'regnet_y_128gf'], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    told = subprocess.run([sys.executable, "-c", between], capture_output=True, text=True, check=True, timeout=300)
    *table, peak = told.stdout.splitlines()
    assert "trunk_output.block4" in "\n".join(table)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    assert int(peak) // unit < 2200, "MiB, with all imports; its weights alone take 2,460"
