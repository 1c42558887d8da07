"""What can be tapped, and which modules are a teacher's last three stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from kvbench.core.hooks import find_layouts
from kvbench.core.stages import find_taps, last_stages

IMAGE = torch.rand(3, 32, 32)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Squeezed(nn.Module):
    """A block whose branch averages its map to one place, and whose first convolution is on the larger map."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.expand, self.reduce = nn.Sequential(conv(inputs, inputs), nn.ReLU()), conv(inputs, outputs, 2)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(self.expand(x))
        scaled: Tensor = x * self.squeeze(x)
        return scaled


def head(width: int, classes: int = 4) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def stem() -> nn.Sequential:
    return nn.Sequential(conv(3, 4, 2), nn.ReLU())


class Net(nn.Module):
    """Parts, in the order in which they run."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def staged() -> Net:
    a, b = nn.Sequential(Squeezed(4, 6), conv(6, 6)), nn.Sequential(Squeezed(6, 7), conv(7, 7))
    return Net(stem=stem(), a=a, b=b, pool=nn.MaxPool2d(1), head=nn.Sequential(*head(7)))


def nested() -> Net:
    features = nn.Sequential(stem(), Squeezed(4, 5), Squeezed(5, 6), nn.BatchNorm2d(6), Squeezed(6, 7))
    return Net(net=Net(features=features, head=nn.Sequential(*head(7))))


def flat() -> Net:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 4), (4, 5), (5, 6)):
        layers += [conv(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return Net(features=nn.Sequential(*layers), pool=nn.AdaptiveAvgPool2d(2), flatten=nn.Flatten(), fc=nn.Linear(24, 4))


def swin() -> SwinTransformer:
    return SwinTransformer([4, 4], 8, [2, 2, 2], [2, 2, 2], [2, 2], num_classes=4)


def vit() -> VisionTransformer:
    return VisionTransformer(32, 8, 4, 2, 16, 16, num_classes=4)


def blocks() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(conv(4, 4), nn.ReLU()) for _ in range(5)))


def same_size() -> Net:
    return Net(stem=stem(), first=conv(4, 4), blocks=blocks(), head=nn.Sequential(*head(4)))


def shrinking_stem() -> Net:
    """Three sizes in the stem, a small part, and then blocks of one size."""
    shrinks = nn.Sequential(conv(3, 4, 2), conv(4, 4, 2), conv(4, 4, 2))
    return Net(stem=shrinks, blocks=blocks(), head=nn.Sequential(*head(4)))


def between_layers() -> Net:
    """Blocks of one size with more layers between them."""
    parts = {f"block{i}": nn.Sequential(conv(4, 4), nn.ReLU()) for i in range(3)}
    apart = {f"{name}_{i}": nn.Identity() for name in parts for i in range(2)}
    return Net(stem=stem(), **dict(sorted({**parts, **apart}.items())), head=nn.Sequential(*head(4)))


class Branching(nn.Module):
    """Three stages, and beside them a branch of smaller maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.branch, self.b, self.c = conv(3, 4, 2), conv(4, 4, 16), conv(4, 5, 2), conv(5, 6, 2)
        self.head = nn.Sequential(*head(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.branch(x).mean((2, 3), keepdim=True)
        logits: Tensor = self.head(self.c(self.b(x)))
        return logits


class Towers(nn.Module):
    """Two networks side by side: neither is the teacher's trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList([staged(), staged()])

    def forward(self, x: Tensor) -> Tensor:
        one, other = (tower(x) for tower in self.towers)
        logits: Tensor = one + other
        return logits


@pytest.mark.parametrize(
    ("make", "paths", "widths"),
    [
        (staged, ("stem", "a", "b"), (4, 6, 7)),
        (nested, ("net.features.1", "net.features.3", "net.features.4"), (5, 6, 7)),
        (flat, ("features.1", "features.4", "features.7"), (4, 5, 6)),  # poolings end no stage
        (swin, ("features.1", "features.3", "features.5"), (8, 16, 32)),  # channels last
        (vit, tuple(f"encoder.layers.encoder_layer_{i}" for i in (1, 2, 3)), (16, 16, 16)),
        (same_size, ("blocks.2", "blocks.3", "blocks.4"), (4, 4, 4)),
        (between_layers, ("block0", "block1", "block2"), (4, 4, 4)),
        (Branching, ("a", "b", "c"), (4, 5, 6)),
        (shrinking_stem, ("blocks.2", "blocks.3", "blocks.4"), (4, 4, 4)),
    ],
)
def test_the_last_three_stages(make: Callable[[], nn.Module], paths: tuple[str, ...], widths: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        module = make().eval()
    taps = {tap.path: tap for tap in find_taps(module, IMAGE)}
    assert last_stages([*taps.values()]) == paths
    assert tuple(taps[path].width for path in paths) == widths
    assert len(find_layouts(module, paths, IMAGE)) == 3, "they are taps"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(a=stem(), b=nn.Sequential(*head(4))),
        lambda: Net(flatten=nn.Flatten(), a=nn.Linear(3072, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8)),
        lambda: Net(pool=nn.AdaptiveAvgPool2d(1), a=conv(3, 3), b=conv(3, 3), c=conv(3, 3), flatten=nn.Flatten()),
        lambda: Net(flatten=nn.Flatten()),
        Towers,
    ],
)
def test_a_teacher_without_three_stages_has_none(make: Callable[[], nn.Module]) -> None:
    assert last_stages(find_taps(make().eval(), IMAGE)) == ()


def test_what_can_be_tapped_is_found_with_the_shape_of_an_image_and_the_channels() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pair, self.last, self.act = conv(3, 5, 2), Pair(), Last(), nn.ReLU()
            self.head = nn.Sequential(*head(5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.pair(x)
            self.last(x)
            logits: Tensor = self.head(self.act(self.act(x)))  # twice: which output is meant?
            return logits

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, 3)

    found = [(tap.path, tap.shape, tap.width, tap.places) for tap in find_taps(Odd().eval(), IMAGE)]
    assert found == [
        ("conv", (5, 16, 16), 5, 32 * 32),  # places: of the image at twice its size
        ("last", (16, 16, 5), 5, 32 * 32),
        ("head.0", (5, 1, 1), 5, 1),
        ("head.1", (5,), 5, 1),
        ("head.2", (4,), 4, 1),
        ("head", (4,), 4, 1),
    ]


def test_taps_are_found_without_numbers() -> None:
    with torch.device("meta"):
        module = nested().eval()
        taps = find_taps(module, torch.empty(3, 2**12, 2**12))
    assert last_stages(taps) == ("net.features.1", "net.features.3", "net.features.4")
    assert {tap.path: tap.shape for tap in taps}["net.features.4"] == (7, 2**8, 2**8)
