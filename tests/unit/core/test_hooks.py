"""Taps: what hooks capture, that they come off, and how outputs are pooled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kvbench.core.hooks import capture, pool
from kvbench.features.teacher import build
from kvbench.utils.errors import UserError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 4)))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_an_in_place_layer_behind_a_tap_does_not_change_what_was_captured() -> None:
    module, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True)), torch.randn(5, 2)
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
        assert all(torch.allclose(a, b) for a, b in zip(plain, turned, strict=True))


def test_tokens_are_averaged_and_vectors_stay() -> None:
    tokens, vector = torch.randn(2, 5, 3), torch.randn(2, 7)
    for kind in ("global", "pyramid"):
        averaged, same = pool([tokens, vector], kind)
        assert torch.allclose(averaged, tokens.sum(1) / 5)
        assert torch.equal(same, vector)
    assert pool([MAP, vector], "pyramid")[0].tolist() == [[7.5, -7.5]]


def test_other_shapes_and_poolings_are_told() -> None:
    with pytest.raises(UserError, match=r"shape \(5,\)"):
        pool([torch.zeros(5)], "global")
    with pytest.raises(UserError, match=r"Unknown pooling 'max'.*global, pyramid"):
        pool([MAP], "max")
