"""The teacher's pass: what it gives, in which precision, and what it refuses."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.models import student
from kvbench.core.trainer import distillation_loss
from kvbench.features.extract import BATCH, check, extract
from kvbench.features.shards import SHARD
from kvbench.features.spec import BankSettings
from kvbench.utils.errors import UserError
from tests.support.banks import CPU, TEN, TinyNet, in_memory, tiny_settings, tiny_teacher


def test_a_bank_holds_pooled_taps_logits_and_labels_in_the_images_order() -> None:
    settings = tiny_settings()
    batches = list(extract(settings, CPU, range(150)))
    made = in_memory(settings)
    images, labels = settings.images.__getitems__([*range(150)])
    net = settings.teacher.module
    assert isinstance(net, TinyNet)
    first = net.first(images)
    second = net.second(first)
    assert (len(made), made.widths, made.classes) == (150, (4, 6), 10)
    assert torch.allclose(made.taps[0], first.mean((2, 3)), atol=1e-5)
    assert torch.allclose(made.taps[1], second.mean((2, 3)), atol=1e-5)
    assert torch.allclose(made.logits, net(images), atol=1e-5)
    assert torch.equal(made.labels, labels)
    assert [len(batch["labels"]) for batch in batches] == [BATCH, 150 - BATCH]


def test_pyramid_pooling_keeps_more_cells_of_shallow_taps() -> None:
    settings = tiny_settings(count=5, pooling="pyramid")
    made = in_memory(settings)
    net = settings.teacher.module
    assert isinstance(net, TinyNet)
    first = net.first(settings.images.__getitems__([*range(5)])[0])
    second = net.second(first)
    cells = round(first.shape[2] / second.shape[2])
    assert cells > 1
    assert made.widths == (4 * cells**2, 6)
    assert torch.allclose(made.taps[0], nn.functional.adaptive_avg_pool2d(first, cells).flatten(1), atol=1e-5)


def test_a_student_trains_on_a_bank_straight_from_the_pass() -> None:
    made = in_memory(tiny_settings(count=20, taps=("first", "first", "second")))
    module = student("Model3").build(made.widths, made.classes)
    xs, teacher_logits, _ = made.batch(slice(0, 10))
    distillation_loss(module(xs), teacher_logits).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_whose_logits_are_not_finite_is_told(value: float) -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.module.get_parameter("fc.bias")[3] = value
    with pytest.raises(UserError, match=r"teacher tiny gives logits that are not finite"):
        in_memory(tiny_settings(count=5, teacher=teacher))


def test_data_with_another_number_of_classes_than_the_teacher_is_told() -> None:
    with pytest.raises(UserError, match=r"has 10 classes, the teacher tiny 12 outputs.*--kvbench-checkpoint"):
        in_memory(tiny_settings(count=5, teacher=tiny_teacher(12, None)))


def test_data_with_other_class_names_than_the_teacher_are_told() -> None:
    other = tiny_teacher(names=(*TEN[:9], "cat"))
    with pytest.raises(UserError, match=r"only on one side: cat, ifs0009\."):
        check(tiny_settings(count=5, teacher=other))
    turned = tiny_teacher(names=TEN[::-1])
    with pytest.raises(UserError, match=r"the order differs"):
        check(tiny_settings(count=5, teacher=turned))


def test_the_pass_stays_on_its_device() -> None:
    class MetaImages:
        classes = TEN
        fingerprint: ClassVar[dict[str, Any]] = {}
        mtime_digest = ""

        def __len__(self) -> int:
            return 6

        def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
            return torch.empty(len(indices), 3, 32, 32), torch.zeros(len(indices), dtype=torch.long)

    seen: list[torch.device] = []
    teacher = tiny_teacher()
    teacher.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].device))
    # Meta tensors hold no numbers: the pass goes through the whole network before it asks for some.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        next(extract(BankSettings(MetaImages(), teacher, ("first", "second")), torch.device("meta"), range(6)))
    assert [device.type for device in seen] == ["meta"]
    assert {p.device.type for p in teacher.module.parameters()} == {"meta"}


def test_whole_batches_fill_a_shard() -> None:
    assert SHARD % BATCH == 0, "a pass that goes on would have other batches, and other bits"


def test_some_rows_come_out_as_in_a_whole_pass() -> None:
    settings = tiny_settings(count=5 * BATCH)
    whole = in_memory(settings)
    rows = [*range(BATCH, 2 * BATCH), *range(4 * BATCH, 5 * BATCH)]
    some = list(extract(settings, CPU, rows))
    assert torch.equal(torch.cat([one["tap1"] for one in some]), whole.taps[1][rows])
    assert torch.equal(torch.cat([one["labels"] for one in some]), whole.labels[rows])


def test_a_pass_in_bfloat16_computes_in_it_and_leaves_it() -> None:
    settings = tiny_settings(precision="bfloat16")
    seen: list[torch.dtype] = []
    settings.teacher.module.get_submodule("second").register_forward_hook(lambda _m, _x, out: seen.append(out.dtype))
    half, full = in_memory(settings), in_memory(tiny_settings())
    assert set(seen) == {torch.bfloat16}
    assert {t.dtype for t in (*half.taps, half.logits)} == {torch.bfloat16}
    assert half.labels.dtype == torch.int64
    for one, other in zip((*half.taps, half.logits), (*full.taps, full.logits), strict=True):
        assert float((one.float() - other).abs().max()) < 0.02
        assert not torch.equal(one, other.bfloat16()), "it was computed in float32 and rounded"


def test_gradients_stay_on_for_whoever_asks_for_batches() -> None:
    for batch in extract(tiny_settings(), CPU, range(150)):
        assert torch.is_grad_enabled()
        assert not batch["logits"].requires_grad


def test_a_pass_without_enough_memory_is_told_with_a_remedy() -> None:
    class Greedy(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            torch.empty(2**60)
            return x

    teacher = tiny_teacher()
    settings = tiny_settings(teacher=type(teacher)(teacher.name, Greedy().eval(), teacher.classes, ""))
    with pytest.raises(
        UserError, match=r"not enough memory for the teacher tiny and 128 images on cpu .*--kvbench-device"
    ):
        in_memory(settings)


def assert_close(one: FeatureBank, other: FeatureBank) -> None:
    """Not equal: which kernel a CPU takes, and so the rounding, depends on the size of the pass."""
    torch.testing.assert_close((one.taps, one.logits, one.labels), (other.taps, other.logits, other.labels))


def test_large_images_go_through_the_teacher_in_even_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = in_memory(tiny_settings(150)), list[int]()
    settings = tiny_settings(150)
    settings.teacher.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr("kvbench.features.extract.PIXELS", 20 * 32 * 32)
    assert_close(in_memory(settings), whole)
    assert sizes == [19, 19, 19, 19, 19, 19, 14, 11, 11]  # never many more, nor a small rest
    monkeypatch.setattr("kvbench.features.extract.PIXELS", 1)
    sizes.clear()
    assert_close(in_memory(settings), whole)
    assert sizes == [16] * 8 + [11, 11]
