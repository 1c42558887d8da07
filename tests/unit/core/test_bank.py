"""Feature banks: what they hold, gather and tell, and what they are keyed by."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from kvbench.core import bank
from kvbench.core.bank import ROUNDING, FeatureBank, Parts
from kvbench.features.teacher import frozen
from kvbench.utils.errors import UserError
from tests.support.banks import TEN, Dots, tiny_settings, tiny_teacher


def half_bank(dtype: torch.dtype) -> FeatureBank:
    g = torch.Generator().manual_seed(0)
    taps = (torch.randn(500, 40, generator=g).to(dtype), torch.randn(500, 6, generator=g).to(dtype))
    return FeatureBank(taps, torch.randn(500, 30, generator=g).to(dtype), torch.arange(500) % 30)


def test_a_bank_gathers_rows_and_tells_the_teachers_accuracy() -> None:
    made = FeatureBank(
        (torch.arange(6.0).reshape(3, 2), torch.arange(3.0)[:, None]),
        torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([1, 1, 1]),
    )
    assert made.teacher_accuracy == pytest.approx(2 / 3)
    xs, logits, labels = made.batch(torch.tensor([2, 0]))
    assert [x.tolist() for x in xs] == [[[4.0, 5.0], [0.0, 1.0]], [[2.0], [0.0]]]
    assert logits.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert labels.tolist() == [1, 1]
    assert made.batch(slice(1, 3))[0][1].tolist() == [[1.0], [2.0]]


def test_every_setting_leads_to_another_folder(tmp_path: Path) -> None:
    other_weights = tiny_teacher()
    with torch.no_grad():
        other_weights.module.get_parameter("fc.bias")[0] += 1
    every = [
        tiny_settings(),
        tiny_settings(count=151),
        tiny_settings(images=Dots(150, seed=1)),
        tiny_settings(teacher=frozen("tiny", other_weights.module, TEN)),
        tiny_settings(teacher=frozen("tinier", tiny_teacher().module, TEN)),
        tiny_settings(taps=("second", "first")),
        tiny_settings(pooling="pyramid"),
        tiny_settings(precision="bfloat16"),
    ]
    assert len({settings.path(tmp_path, "a") for settings in every}) == len(every)
    assert tiny_settings().path(tmp_path, "a") == tiny_settings().path(tmp_path, "a")
    assert all(json.loads(json.dumps(settings.fingerprint)) == settings.fingerprint for settings in every)


def test_a_bank_rounded_otherwise_differs_in_the_last_places_of_what_is_computed() -> None:
    g = torch.Generator().manual_seed(0)
    made = FeatureBank((torch.randn(50, 4, generator=g),), torch.randn(50, 3, generator=g), torch.arange(50) % 3)
    before = made.taps[0].clone()
    moved = made.perturbed(seed=1)
    for one, other in ((made.taps[0], moved.taps[0]), (made.logits, moved.logits)):
        relative = ((other - one) / one).abs()
        assert 0 < float(relative.max()) < 6 * ROUNDING[torch.float32]
        assert float(relative.square().mean().sqrt()) == pytest.approx(ROUNDING[torch.float32], rel=0.2)
    assert torch.equal(moved.labels, made.labels)
    assert torch.equal(made.taps[0], before)
    assert torch.equal(made.perturbed(seed=1).logits, moved.logits)
    assert not torch.equal(made.perturbed(seed=2).logits, moved.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_bank_is_handed_out_in_float32(dtype: torch.dtype) -> None:
    made = half_bank(dtype)
    assert (made.widths, made.classes) == ((40, 6), 30)
    for rows in (torch.tensor([7, 3, 7]), slice(2, 9)):
        xs, logits, labels = made.batch(rows)
        assert {x.dtype for x in (*xs, logits)} == {torch.float32}
        assert torch.equal(xs[1], made.taps[1].float()[rows])
        assert torch.equal(logits, made.logits.float()[rows])
        assert torch.equal(labels, made.labels[rows])
    assert made.teacher_accuracy == float((made.logits.float().argmax(1) == made.labels).float().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_bank_is_rounded_otherwise_in_its_own_last_place(dtype: torch.dtype) -> None:
    made = half_bank(dtype)
    moved = made.perturbed(seed=1)
    for one, other in ((made.taps[0], moved.taps[0]), (made.logits, moved.logits)):
        assert other.dtype == dtype
        relative = (other.float() / one.float() - 1).square().mean().sqrt()
        assert ROUNDING[dtype] / 2 < float(relative) < 2 * ROUNDING[dtype]


def test_the_teachers_accuracy_needs_no_copy_of_the_logits() -> None:
    made = FeatureBank((), torch.zeros(4000, 500, dtype=torch.bfloat16), torch.zeros(4000, dtype=torch.int64))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        assert made.teacher_accuracy == 1
    assert max(event.cpu_memory_usage for event in seen.key_averages()) < made.logits.nbytes / 4


def test_an_unknown_precision_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown precision 'float61'\. .*Valid: float32, bfloat16, float16\."):
        tiny_settings(precision="float61")


def in_parts(whole: torch.Tensor, size: int) -> Parts:
    return Parts([whole[first : first + size] for first in range(0, len(whole), size)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 5, 7, 12])
def test_a_column_in_parts_is_indexed_like_one_tensor(dtype: torch.dtype, size: int) -> None:
    whole = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    column = in_parts(whole, size)
    assert (column.shape, column.dtype, column.device, len(column)) == (whole.shape, dtype, whole.device, 12)
    bounds = [None, *range(-13, 14)]
    for rows in [slice(first, stop) for first in bounds for stop in bounds]:
        assert torch.equal(column[rows], whole[rows]), rows
    mask = torch.arange(12) % 3 == 1
    for other in (torch.tensor([11, 0, 5, 5, -1, -12]), torch.tensor([], dtype=torch.int64), mask, 3, slice(0, 9, 2)):
        assert torch.equal(column[other], whole[other])
        assert type(column[other]) is torch.Tensor
    for outside in (12, -13):
        with pytest.raises(IndexError):
            column[torch.tensor([outside])]


def test_a_column_in_parts_is_used_like_one_tensor() -> None:
    whole = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    column = in_parts(whole, 5)
    pairs = [
        (column.bfloat16(), whole.bfloat16()),
        (column.roll(1, 0), whole.roll(1, 0)),
        (torch.cat([column, whole]), torch.cat([whole, whole])),
        (whole + column, whole + whole),
        (copy.deepcopy(column), whole),
        (torch.from_numpy(column.numpy()), whole),
        (torch.stack([*column]), whole),
    ]
    for found, expected in pairs:
        assert torch.equal(found, expected)
        assert type(found) is torch.Tensor
    assert column.to("cpu") is column


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bank_in_parts_gathers_moves_and_tells_what_a_whole_one_does(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "CHUNK", 300)
    whole = half_bank(dtype)
    made = FeatureBank(tuple(in_parts(tap, 128) for tap in whole.taps), in_parts(whole.logits, 128), whole.labels)
    for rows in (torch.randperm(500)[:64], slice(100, 300), slice(400, 464)):
        taps, *others = made.batch(rows)
        expected, *rest = whole.batch(rows)
        assert all(torch.equal(a, b) for a, b in zip([*taps, *others], [*expected, *rest], strict=True))
    made.batch(slice(0, 4))[0][0][:] = 7
    assert made.digest == whole.digest, "what is handed out is a copy"
    assert made.teacher_accuracy == whole.teacher_accuracy
    assert made.perturbed(3).digest == whole.perturbed(3).digest
    meta = made.to(torch.device("meta"))
    assert [tuple(tap.shape) for tap in meta.taps] == [(500, 40), (500, 6)]
    assert all(tap.is_meta and not isinstance(tap, Parts) for tap in meta.taps)


def test_a_column_of_known_digest_is_not_read_for_it() -> None:
    whole = torch.zeros(8, 2)
    made = [FeatureBank((), Parts([whole[:5], whole[5:]], name), torch.zeros(8).long()) for name in ("a", "b", "a")]
    assert made[0].digest == made[2].digest != made[1].digest
    assert made[0].to(torch.device("cpu")).digest == made[0].digest


def test_projections_tell_banks_apart_up_to_rounding() -> None:
    made = half_bank(torch.float32)
    columns = made.projections()
    assert [len(column) for column in columns] == [4, 4, 4]
    size = [float(torch.tensor(column).norm()) for column in columns]

    def distances(other: FeatureBank) -> list[float]:
        pairs = zip(columns, other.projections(), size, strict=True)
        return [float((torch.tensor(a) - torch.tensor(b)).norm()) / norm for a, b, norm in pairs]

    assert max(distances(made.perturbed())) < 1e-5
    halved = FeatureBank(tuple(tap.bfloat16() for tap in made.taps), made.logits.bfloat16(), made.labels)
    assert min(distances(halved)) > 2e-4
    first, second = made.taps
    swapped = FeatureBank((first, second[:, [1, 0, 2, 3, 4, 5]]), made.logits[torch.arange(499, -1, -1)], made.labels)
    unchanged, *changed = distances(swapped)
    assert unchanged == 0
    assert min(changed) > 0.1


def test_projections_are_the_same_wherever_a_column_lies_and_of_evenly_spaced_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = half_bank(torch.float32)
    parts = FeatureBank(
        tuple(Parts(torch.split(tap, 70)) for tap in made.taps), Parts(torch.split(made.logits, 70)), made.labels
    )
    assert parts.projections() == made.projections()
    counted = FeatureBank((torch.arange(16.0).reshape(8, 2),), torch.ones(8, 1), torch.arange(8))
    root = 2**-0.5
    assert counted.projections() == [[0.5, 1, 15, 0.5], pytest.approx([-root, -2 * root, 2 * root, -root])]
    monkeypatch.setattr(bank, "CHUNK", 100)
    assert made.projections() != parts.select([1, 0]).projections()
    assert (
        made.projections()
        == FeatureBank(
            tuple(tap[torch.linspace(0, 499, 100, dtype=torch.float64).round().long()] for tap in made.taps),
            made.logits[torch.linspace(0, 499, 100, dtype=torch.float64).round().long()],
            torch.arange(100),
        ).projections()
    )


def test_projections_ask_no_accelerator_for_float64() -> None:
    class Elsewhere(torch.Tensor):
        """A column on a device that has no float64, as Apple's."""

        def double(self) -> torch.Tensor:
            raise TypeError("no float64 here")

        def cpu(self, *_: object) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    made = half_bank(torch.float32)
    there = FeatureBank(tuple(tap.as_subclass(Elsewhere) for tap in made.taps), made.logits, made.labels)
    assert there.projections() == made.projections()
