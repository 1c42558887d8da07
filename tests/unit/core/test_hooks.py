"""Taps: what hooks capture, that they come off, and how outputs are pooled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from kvbench.core.hooks import Layout, capture, channels_second, find_layouts, pool
from kvbench.features.teacher import build
from kvbench.utils.errors import UserError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 4)))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_an_in_place_layer_behind_a_tap_does_not_change_what_was_captured() -> None:
    module, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True)), 100 * torch.eye(2).repeat(2, 1)
    x[2:] *= -1
    with capture(module, ("0",)) as captured:
        module(x)
    assert torch.equal(captured["0"], module[0](x))
    assert (captured["0"] < 0).any()


def test_every_tap_is_captured_at_every_forward_pass() -> None:
    module, x = net(), torch.randn(5, 2)
    with capture(module, ("0", "2.0")) as captured:
        assert captured == {}
        for batch in (x, x + 1):
            out = module(batch)
            assert list(captured) == ["0", "2.0"]
            assert torch.equal(captured["0"], module[0](batch))
            assert torch.equal(captured["2.0"], out)


def test_hooks_come_off_after_the_block() -> None:
    module = net()
    with capture(module, ("0", "2")) as captured:
        assert hooks(module) == 2
    assert hooks(module) == 0
    module(torch.randn(1, 2))
    assert captured == {}


def test_hooks_come_off_after_an_error_in_the_block() -> None:
    module = net()
    with pytest.raises(ZeroDivisionError), capture(module, ("0", "2")):
        raise ZeroDivisionError
    assert hooks(module) == 0


def test_hooks_come_off_when_a_later_tap_does_not_exist() -> None:
    module = net()
    with pytest.raises(UserError), capture(module, ("0", "nowhere")):
        pass
    assert hooks(module) == 0


def test_hooks_of_others_stay() -> None:
    module = net()
    module[0].register_forward_hook(lambda *_: None)
    with capture(module, ("0",)):
        assert hooks(module) == 2
    assert hooks(module) == 1


def test_an_unknown_tap_names_the_nearest() -> None:
    with torch.device("meta"):
        module = build("resnet18", 10)
    with (
        pytest.raises(UserError, match=r"No tap 'layer4\.2': .*Nearest names: .*layer4") as told,
        capture(module, ("layer4.2",)),
    ):
        pass
    assert "layer4.1" in str(told.value)
    with pytest.raises(UserError, match=r"No tap 'qqqq'.*Nearest names: conv1, bn1"), capture(module, ("qqqq",)):
        pass
    with pytest.raises(UserError, match="No tap ''"), capture(module, ("",)):
        pass


def test_a_tap_that_gives_no_tensor_is_told() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    module = nn.Sequential(Pair())
    with pytest.raises(UserError, match=r"Tap '0' gives tuple"), capture(module, ("0",)):
        module(torch.zeros(1))
    assert hooks(module) == 0


# One image and two channels of 4x4: 0..15 and their negatives.
MAP = torch.stack([torch.arange(16.0).reshape(4, 4), -torch.arange(16.0).reshape(4, 4)])[None]


def test_global_pooling_of_a_4x4_map_by_hand() -> None:
    assert pool([MAP, torch.zeros(1, 3, 2, 2)], "global")[0].tolist() == [[7.5, -7.5]]


def test_pyramid_pooling_of_a_4x4_map_over_a_2x2_one_by_hand() -> None:
    shallow, deep = pool([MAP, MAP[:, :, :2, :2]], "pyramid")
    # Cells: (0 1 4 5), (2 3 6 7), (8 9 12 13), (10 11 14 15), row by row, one channel after the other.
    assert shallow.tolist() == [[2.5, 4.5, 10.5, 12.5, -2.5, -4.5, -10.5, -12.5]]
    assert deep.tolist() == [[2.5, -2.5]]


def test_pooling_does_not_depend_on_the_memory_format() -> None:
    x = torch.randn(2, 3, 8, 8)
    last = x.to(memory_format=torch.channels_last)
    for kind in ("global", "pyramid"):
        plain, turned = pool([x, x[..., :2, :2]], kind), pool([last, last[..., :2, :2]], kind)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, turned, strict=True))


def test_tokens_are_averaged_and_vectors_stay() -> None:
    tokens, vector, film = torch.randn(2, 3, 5), torch.randn(2, 7), torch.randn(2, 3, 4, 5, 6)
    for kind in ("global", "pyramid"):
        averaged, of_film, same = pool([tokens, film, vector], kind)
        assert torch.allclose(averaged, tokens.sum(2) / 5)
        assert torch.allclose(of_film, film.mean((2, 3, 4)), atol=1e-6)
        assert torch.equal(same, vector)
    assert pool([MAP, vector], "pyramid")[0].tolist() == [[7.5, -7.5]]


def test_an_unknown_pooling_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown pooling 'max'.*global, pyramid"):
        pool([MAP], "max")


# Layouts


IMAGE = torch.rand(3, 32, 32)


class Shaped(nn.Module):
    """A convolution of 8 channels, at a quarter of the side, and a module ``tap`` that gives it in another shape."""

    def __init__(self, shape: Callable[[Tensor], Any], size: int = 0):
        super().__init__()
        self.conv, self.tap, self.size = nn.Conv2d(3, 8, 4, 4), Lambda(shape), size

    def forward(self, x: Tensor) -> Any:
        if self.size and x.shape[-1] != self.size:
            raise AssertionError("wrong size")
        maps = self.conv(x)
        self.tap(maps)
        return maps.mean((2, 3))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (lambda x: x, (0, 1)),
        (lambda x: x.permute(0, 2, 3, 1), (0, 3)),  # Swin
        (lambda x: x.flatten(2), (0, 1)),
        (lambda x: x.flatten(2).mT, (0, 2)),  # a transformer
        (lambda x: x.flatten(2).permute(2, 0, 1), (1, 2)),  # a transformer with the sequence first
        (lambda x: x.permute(2, 3, 1, 0), (3, 2)),
        (lambda x: torch.stack([x] * x.shape[2], 2), (0, 1)),  # a volume
        (lambda x: x.mean((2, 3)), (0, 1)),
        (lambda x: x.mean((2, 3)).T, (1, 0)),
        (lambda x: x.mean((2, 3), keepdim=True), (0, 1)),
        (lambda x: x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1), (0, 3)),
        (lambda x: x.flatten(1), (0, 1)),
        (lambda x: x[:, :1], (0, 1)),  # a map of one channel
        (lambda x: x.to(memory_format=torch.channels_last), (0, 1)),
        (lambda x: x.double(), (0, 1)),
    ],
)
def test_a_layout_is_found_from_two_sizes_of_images(shape: Callable[[Tensor], Tensor], layout: tuple[int, int]) -> None:
    module = Shaped(shape)  # 8 channels, and 8 by 8 positions: lengths alone tell nothing
    assert find_layouts(module, ["tap"], IMAGE) == [layout]
    maps = module.conv(IMAGE[None].expand(5, -1, -1, -1))
    with capture(module, ["tap"]) as captured:
        module(IMAGE[None].expand(5, -1, -1, -1))
    (pooled,) = pool([channels_second(captured["tap"], Layout(*layout))], "global")
    assert len(pooled) == 5
    if pooled.shape == (5, 8):
        assert torch.allclose(pooled.float(), maps.mean((2, 3)), atol=1e-6)


class Drawn(nn.Module):
    """Maps of some channels at a fraction of the side, their axes in an order, and their module ``tap``."""

    def __init__(self, channels: int, stride: int, order: tuple[int, ...], flat: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, stride, stride)
        self.tap = Lambda(lambda x: (x.flatten(2) if flat else x).permute([i for i in order if i < 4 - flat]))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x)
        self.tap(maps)
        return maps.mean((2, 3))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 20),
    side=st.integers(4, 24),
    stride=st.integers(1, 4),
    order=st.permutations(range(4)),
    flat=st.booleans(),
)
def test_whatever_the_lengths_and_the_order_of_axes_a_layout_is_right_or_refused(
    channels: int, side: int, stride: int, order: list[int], flat: bool
) -> None:
    module = Drawn(channels, stride, tuple(order), flat)
    axes = [i for i in order if i < 4 - flat]
    images = torch.rand(5, 3, side, side)
    try:
        layout = find_layouts(module, ["tap"], images[0])[0]
    except UserError as error:
        assert "nothing tells" in str(error)  # noqa: PT017
        assert 1 in {channels, side // stride}, "it is clear unless an axis has one place"
        return
    with capture(module, ["tap"]) as captured:
        module(images)
    (features,) = pool([channels_second(captured["tap"], layout)], "global")
    expected = module.conv(images).mean((2, 3))
    assert torch.allclose(features, expected, atol=1e-5), (layout, axes)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (lambda x: (x, x), r"Tap 'tap' gives tuple, not one tensor"),
        (lambda x: {"x": x}, r"Tap 'tap' gives dict, not one tensor"),
        (lambda x: None, r"Tap 'tap' gives NoneType, not one tensor"),
        (lambda x: x.argmax(1), r"Tap 'tap' gives int64 numbers"),
        (lambda x: x > 0, r"Tap 'tap' gives bool numbers"),
        (lambda x: torch.complex(x, x), r"Tap 'tap' gives complex64 numbers"),
        (lambda x: x.flatten(1).to_sparse(), r"Tap 'tap' gives sparse_coo numbers"),
        (lambda x: x.sum(), r"Tap 'tap' gives \(\) for 3 images"),
        (lambda x: x.mean((1, 2, 3)), r"Tap 'tap' gives \(3,\) for 3 images"),
        (lambda x: x.mean(0), r"Tap 'tap' gives \(8, 8, 8\) for 3 images"),
        (lambda x: x.unfold(2, 4, 4).flatten(0, 1), r"Tap 'tap' gives \(24, .* for 3 images"),  # windows
        (lambda x: x.flatten(1) if len(x) == 3 else x, r"another number of axes"),
        (lambda x: x.flatten(2).mT @ x.flatten(2), r"nothing tells .*tap@BCN or tap@BNC"),  # who looks at whom
        (lambda x: x[:, :, None], r"nothing tells .*tap@BCDHW or tap@BDHWC"),  # one channel, or one frame of a film
        (lambda x: nn.functional.adaptive_avg_pool2d(x, 8), r"nothing tells .*tap@BCHW or tap@BHWC"),
    ],
)
def test_what_has_no_layout_is_a_sentence(shape: Callable[[Tensor], Any], sentence: str) -> None:
    module = Shaped(shape)
    with pytest.raises(UserError, match=sentence):
        find_layouts(module, ["tap"], IMAGE)
    assert hooks(module) == 0


def test_one_size_alone_tells_no_channels_but_the_axes_letters_do() -> None:
    module = Shaped(lambda x: x.permute(0, 2, 3, 1), size=32)
    with pytest.raises(UserError, match=r"Tap 'tap' gives \(3, 8, 8, 8\) for 3 images, and nothing tells"):
        find_layouts(module, ["tap"], IMAGE)
    assert find_layouts(module, ["tap@BHWC"], IMAGE) == [(0, 3)]
    assert find_layouts(Shaped(lambda x: x[:, :, None]), ["tap@BCTHW"], IMAGE) == [(0, 1)]
    assert find_layouts(module, ["conv"], IMAGE) == [(0, 1)], "the layer's type tells"


def test_a_tap_that_runs_for_images_of_one_size_alone_is_known_by_that_size() -> None:
    class Branching(Shaped):
        def forward(self, x: Tensor) -> Any:
            maps = self.conv(x)
            return self.tap(maps) if x.shape[-1] == 32 else maps

    module = Branching(lambda x: x.permute(0, 2, 3, 1))
    with pytest.raises(UserError, match=r"Tap 'tap' gives \(3, 8, 8, 8\) for 3 images, and nothing tells"):
        find_layouts(module, ["tap"], IMAGE)
    assert find_layouts(module, ["tap@BHWC"], IMAGE) == [(0, 3)]


@pytest.mark.parametrize("letters", ["BCHW", "HBWC", "BHC", "BNTHC"])
def test_axes_letters_that_do_not_fit_are_a_sentence(letters: str) -> None:
    with pytest.raises(UserError, match=r"do not fit its output: \(3, 8, 8, 8\) for 3 images, \(2, 16, 16, 8\) for 2"):
        find_layouts(Shaped(lambda x: x.permute(0, 2, 3, 1)), [f"tap@{letters}"], IMAGE)


@pytest.mark.parametrize("tap", ["tap@", "tap@BHW", "tap@CHW", "tap@BCC", "tap@B1C", "tap@BC@HW"])
def test_axes_letters_that_name_no_channels_are_a_sentence(tap: str) -> None:
    with pytest.raises(UserError, match=r"Cannot read the axes of the tap"):
        find_layouts(Shaped(lambda x: x), [tap], IMAGE)


def test_a_transformer_of_one_size_is_known_by_its_layers() -> None:
    with torch.random.fork_rng():
        module = VisionTransformer(32, 8, 2, 2, 16, 16, num_classes=4).eval()  # 17 tokens of 16 channels
    taps = ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp", "encoder.ln", "heads"]
    assert find_layouts(module, taps, IMAGE) == [(0, 2), (0, 2), (0, 2), (0, 1)]
    with pytest.raises(UserError, match=r"nothing tells .*encoder\.dropout@BCN or encoder\.dropout@BNC"):
        find_layouts(module, ["encoder.dropout"], IMAGE)


def test_a_swin_transformer_has_its_channels_last() -> None:
    with torch.random.fork_rng():
        module = SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=4).eval()
    assert find_layouts(module, ["features.1", "features.3", "permute"], IMAGE) == [(0, 3), (0, 3), (0, 1)]


# Taps that do not run once


class Odd(nn.Module):
    """A list of layers of which one runs twice, one in training alone, and one is there under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.act, self.auxiliary = nn.ReLU(), nn.Linear(3, 3)
        self.same = self.layers[2]
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.layers[0](x))
        x = self.same(self.act(self.layers[1](x))).mean((2, 3))
        return self.auxiliary(x) if self.training else x


@pytest.mark.parametrize(
    ("tap", "sentence"),
    [
        ("auxiliary", r"Tap 'auxiliary' does not run when the teacher classifies images"),
        ("layers", r"Tap 'layers' is a list of modules, which does not run itself: .*layers\.0"),
        ("act", r"Tap 'act' runs 2 times in a forward pass"),
        ("scale", r"No tap 'scale': it is a parameter"),
        ("layers.1.weight", r"No tap 'layers\.1\.weight': it is a parameter.*layers\.1"),
        ("", r"No tap ''"),
        ("forward", r"No tap 'forward': the teacher has no such module"),
    ],
)
def test_a_tap_that_does_not_run_once_is_a_sentence(tap: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_layouts(Odd().eval(), ["layers.0", tap], IMAGE)


def test_a_module_under_two_names_is_a_tap_under_both() -> None:
    module = Odd().eval()
    assert find_layouts(module, ["layers.0", "same"], IMAGE) == find_layouts(module, ["layers.0", "layers.2"], IMAGE)
    with capture(module, ("layers.2", "same")) as captured:
        module(IMAGE[None])
    assert torch.equal(captured["layers.2"], captured["same"])


def test_taps_in_another_order_than_they_run_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"give layers\.0,layers\.1,same\.$"):
        find_layouts(Odd().eval(), ["same", "layers.0", "layers.1"], IMAGE)


def test_what_a_module_says_of_images_that_it_does_not_take_is_passed_on() -> None:
    module = Shaped(lambda x: x, size=64)
    with pytest.raises(AssertionError, match="wrong size"):
        find_layouts(module, ["tap"], IMAGE)
    assert hooks(module) == 0


def test_an_order_to_end_is_no_size_that_a_teacher_does_not_take() -> None:
    class Slow(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] > 8:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        find_layouts(nn.Sequential(Slow(3, 4, 3)), ("0",), torch.rand(3, 8, 8))
