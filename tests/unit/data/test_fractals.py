"""The generated images: a pure function of (split, class, sample), worth looking at in every class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvbench.data.fractals import MAX_MAPS, STEPS, FractalImages, Rendering, chaos_game, mix, render, systems, uniform

ALL = range(40)


def images(split: str = "train", count: int = 40, classes: int = 20, size: int = 16) -> FractalImages:
    return FractalImages(split, count, classes=classes, size=size)


def test_an_image_does_not_depend_on_its_batch_or_on_the_order() -> None:
    together, labels = images().__getitems__([*ALL])
    for chosen in ([7], [31, 4], [*reversed(ALL)]):
        again, its_labels = images().__getitems__(chosen)
        assert torch.equal(again, together[chosen])
        assert torch.equal(its_labels, labels[chosen])


def test_an_image_does_not_depend_on_the_global_random_state() -> None:
    state = torch.get_rng_state()
    once = images().__getitems__([0, 1])[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(images().__getitems__([0, 1])[0], once)


def test_an_image_does_not_depend_on_how_many_others_there_are() -> None:
    few, many = images(count=25), images(count=40)
    assert torch.equal(few.__getitems__([*range(25)])[0], many.__getitems__([*range(25)])[0])


def ink(raw: Tensor) -> Tensor:
    """Which pixels (B, H, W) stand out from their image's background, whatever the colours."""
    background = raw.flatten(2).mode(-1).values[..., None, None]
    return (raw - background).abs().amax(1) > 0.05


def test_splits_samples_and_classes_differ_in_shape() -> None:
    train, val = (ink(images(split).__getitems__([*ALL])[0]) for split in ("train", "val"))
    assert len(torch.unique(torch.cat([train, val]).flatten(1), dim=0)) == 80
    assert (train ^ val).float().mean((1, 2)).min() > 0.01
    assert (train[:20] ^ train[20:]).float().mean((1, 2)).min() > 0.01


def test_image_i_is_a_sample_of_class_i_modulo_the_number_of_classes() -> None:
    split = images(count=45)
    assert len(split) == 45
    assert split.classes[3] == "ifs0003"
    pixels, labels = split.__getitems__([3, 23, 44])
    assert labels.tolist() == [3, 3, 4]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    raw = render("train", torch.tensor([3, 3, 4]), torch.tensor([0, 1, 2]), 20, 16, Rendering())
    assert torch.allclose(pixels, (raw - mean) / std, atol=1e-6)
    assert raw.min() >= 0
    assert raw.max() <= 1


def test_pixels_stay_what_they_were_when_the_teacher_was_trained() -> None:
    """Within a tolerance, since the last bits differ between machines: if this fails, raise VERSION and train again."""
    pixels = FractalImages("val", 8, size=64).__getitems__([*range(8)])[0]
    whole = [-1.197, -1.551, -0.483, -0.638, -0.444, -0.866, -0.807, -0.936]
    upper_half = [-1.224, -1.564, -0.451, -0.642, -0.419, -0.832, -0.826, -0.940]
    assert pixels.mean((1, 2, 3)).tolist() == pytest.approx(whole, abs=0.01)
    assert pixels[:, :, :32].mean((1, 2, 3)).tolist() == pytest.approx(upper_half, abs=0.01)


def test_every_map_of_every_system_contracts() -> None:
    matrices, offsets, cumulative = systems(1000)
    gain = torch.linalg.matrix_norm(matrices, 2)
    assert gain.max() <= 0.951
    assert torch.isfinite(offsets).all()
    chance = cumulative.diff(dim=1, prepend=torch.zeros(1000, 1))
    maps = (chance > 0).sum(1)
    assert maps.min() == 2
    assert maps.max() == MAX_MAPS
    assert torch.allclose(cumulative[:, -1], torch.ones(1000))


def test_every_attractor_is_centred_and_of_radius_one() -> None:
    some = torch.arange(0, 1000, 5)
    matrices, offsets, cumulative = (part[some] for part in systems(1000))
    points = chaos_game(matrices, offsets, cumulative, some, steps=4 * STEPS)
    assert points.mean(1).abs().max() < 0.05
    assert points.square().sum(-1).mean(1).sqrt().sub(1).abs().max() < 0.05


def test_a_system_does_not_depend_on_the_number_of_classes() -> None:
    assert all(torch.equal(few, many[:10]) for few, many in zip(systems(10), systems(1000), strict=True))


def test_every_class_fills_a_share_of_its_image() -> None:
    raw = render("train", torch.arange(1000), torch.zeros(1000, dtype=torch.long), 1000, 32, Rendering())
    share = ink(raw).float().mean((1, 2))
    assert share.min() > 0.01
    assert share.max() < 0.9
    assert 0.1 < share.mean() < 0.5


def test_hashed_numbers_are_uniform_and_do_not_repeat_between_keys() -> None:
    u = uniform(torch.arange(100)[:, None], 3, torch.arange(100))
    assert u.min() >= 0
    assert u.max() < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(u.var()) == pytest.approx(1 / 12, abs=0.003)
    assert len(torch.unique(mix(torch.arange(100)[:, None], torch.arange(100)))) == 10_000
    assert int(mix(1, 2)) != int(mix(2, 1))


def test_the_fingerprint_tells_everything_that_decides_pixels() -> None:
    base = images().fingerprint
    others = [
        images("val"),
        images(count=41),
        images(classes=21),
        images(size=17),
        FractalImages("train", 40, classes=20, size=16, how=Rendering(turn=0.1)),
    ]
    assert all(other.fingerprint != base for other in others)
    assert images().fingerprint == base


def test_the_rendering_decides_how_much_samples_differ() -> None:
    labels, samples = torch.zeros(2, dtype=torch.long), torch.arange(2)
    still = render("train", labels, samples, 5, 16, Rendering(0, 0, 0, 0))
    lively = render("train", labels, samples, 5, 16, Rendering())
    differ = [float((a ^ b).float().mean()) for a, b in (ink(still), ink(lively))]
    assert differ[0] < differ[1] / 3
