"""The teacher's pass: what it gives, in which precision, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.losses import distillation_loss
from kvbench.features.extract import BATCH, check, extract
from kvbench.features.store import ROWS
from kvbench.features.teacher import frozen
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import UserError
from tests.support.banks import CPU, TEN, Dots, TinyNet, in_memory, tiny_settings, tiny_teacher


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
    module = STUDY.student("Model3").build(made.widths, made.classes)
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


def test_a_class_that_the_teacher_does_not_know_is_named() -> None:
    with pytest.raises(
        UserError,
        match=r"trained on 10 classes, and 1 of the data's 10 are not among them; only in the data: ifs0009; .*train",
    ):
        check(tiny_settings(count=5, teacher=tiny_teacher(names=(*TEN[:9], "cat"))))


@pytest.mark.parametrize("order", [TEN[::-1], ("cat", *TEN[:5], "dog", *TEN[5:])])
def test_outputs_are_chosen_by_the_names_of_the_classes(order: tuple[str, ...]) -> None:
    settings = tiny_settings(count=20, teacher=tiny_teacher(len(order), order))
    made = in_memory(settings)
    with torch.no_grad():
        every = settings.teacher.module(settings.images.__getitems__([*range(20)])[0])
    assert torch.allclose(made.logits, every[:, [order.index(name) for name in TEN]], atol=1e-5)
    assert settings.fingerprint["outputs"] == [order.index(name) for name in TEN]
    assert "outputs" not in tiny_settings().fingerprint


def test_the_pass_stays_on_its_device() -> None:
    settings = tiny_settings()
    check(settings)
    seen: list[torch.device] = []
    settings.teacher.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].device))
    # Meta tensors hold no numbers: the pass goes through the whole network before it asks for some.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        next(extract(settings, torch.device("meta"), range(6)))
    assert [device.type for device in seen] == ["meta"]
    assert {p.device.type for p in settings.teacher.module.parameters()} == {"meta"}


def test_whole_batches_fill_a_part() -> None:
    assert ROWS % BATCH == 0, "a pass that goes on would have other batches, and other bits"


def test_some_rows_come_out_as_in_a_whole_pass() -> None:
    settings = tiny_settings(count=5 * BATCH)
    whole = in_memory(settings)
    rows = [*range(BATCH, 2 * BATCH), *range(4 * BATCH, 5 * BATCH)]
    some = list(extract(settings, CPU, rows))
    assert torch.equal(torch.cat([one["tap1"] for one in some]), whole.taps[1][rows])
    assert torch.equal(torch.cat([one["labels"] for one in some]), whole.labels[rows])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_pass_in_half_precision_computes_in_it_and_leaves_it(precision: str) -> None:
    settings, dtype = tiny_settings(precision=precision), getattr(torch, precision)
    check(settings)
    seen: list[torch.dtype] = []
    settings.teacher.module.get_submodule("second").register_forward_hook(lambda _m, _x, out: seen.append(out.dtype))
    half, full = in_memory(settings), in_memory(tiny_settings())
    assert set(seen) == {dtype}
    assert {t.dtype for t in (*half.taps, half.logits)} == {dtype}
    assert half.labels.dtype == torch.int64
    for one, other in zip((*half.taps, half.logits), (*full.taps, full.logits), strict=True):
        assert float((one.float() - other).abs().max()) < 0.02
        assert not torch.equal(one, other.to(dtype)), "it was computed in float32 and rounded"


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
    with pytest.raises(UserError, match=r"not enough memory for the teacher tiny on cpu .*--kvbench-device"):
        in_memory(settings)


def assert_close(one: FeatureBank, other: FeatureBank) -> None:
    """Not equal: which kernel a CPU takes, and so the rounding, depends on the size of the pass."""
    torch.testing.assert_close((one.taps, one.logits, one.labels), (other.taps, other.logits, other.labels))


def test_large_images_go_through_the_teacher_in_even_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = in_memory(tiny_settings(150)), list[int]()
    settings = tiny_settings(150)
    check(settings)
    settings.teacher.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr("kvbench.features.extract.PIXELS", 20 * 32 * 32)
    assert_close(in_memory(settings), whole)
    assert sizes == [19, 19, 19, 19, 19, 19, 14, 11, 11]  # never many more, nor a small rest
    monkeypatch.setattr("kvbench.features.extract.PIXELS", 1)
    sizes.clear()
    assert_close(in_memory(settings), whole)
    assert sizes == [16] * 8 + [11, 11]


class Wrapped(nn.Module):
    """A network of which what comes out is changed."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], object]):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> object:
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: (x, x), r"teacher tiny gives tuple, not logits"),
        (lambda x: SimpleNamespace(logits=x), r"teacher tiny gives SimpleNamespace, not logits"),
        (lambda x: None, r"teacher tiny gives NoneType, not logits"),
        (lambda x: x[0], r"teacher tiny gives float32 \(10,\) for \d+ images"),
        (lambda x: x[:1], r"teacher tiny gives float32 \(1, 10\) for \d+ images"),
        (lambda x: x[:, :, None], r"teacher tiny gives float32 \(\d+, 10, 1\) for \d+ images"),
        (lambda x: x.argmax(1, keepdim=True), r"teacher tiny gives int64"),
        (lambda x: x[:, :9], r"has 10 classes, the teacher tiny 9 outputs"),
    ],
)
def test_a_teacher_that_gives_no_logits_is_a_sentence(change: Callable[[Tensor], object], sentence: str) -> None:
    net = frozen("tiny", Wrapped(tiny_teacher().module, change), TEN)
    with pytest.raises(UserError, match=sentence):
        in_memory(tiny_settings(count=20, teacher=net, taps=("net.first", "net.second")))


class Picky(TinyNet):
    """Takes 64 pixels alone, as a transformer with positions does."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 64:
            raise AssertionError(f"Wrong image height! Expected 64 but got {x.shape[-1]}!")
        return super().forward(x)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "mine",
            r"teacher mine does not take images of 32 by 32 pixels \(Wrong image height! Expected 64 but got 32\)\.$",
        ),
        ("vit_b_16", r"own weights are for 224 pixels: choose these with --kvbench-set size=224"),
        ("inception_v3", r"own weights are for 299 pixels: choose these with --kvbench-set size=299"),
    ],
)
def test_a_teacher_that_does_not_take_images_of_a_size_is_a_sentence_before_the_pass(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check(tiny_settings(teacher=frozen(name, Picky(), TEN)))


def test_features_that_are_not_finite_name_the_tap() -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.module.get_parameter("second.bias")[3] = float("inf")
        teacher.module.get_parameter("fc.weight").zero_()
    teacher.module.get_submodule("fc").register_forward_pre_hook(lambda _, x: (x[0].nan_to_num(0, 0, 0),))
    with pytest.raises(UserError, match=r"Tap 'second' gives numbers that are not finite"):
        in_memory(tiny_settings(count=5, teacher=teacher))


@pytest.mark.parametrize("layer", ["second", "fc"])
def test_numbers_that_float16_does_not_have_are_told_with_a_way_out(layer: str) -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.module.get_parameter(f"{layer}.bias")[3] = 1e5
        if layer == "second":
            teacher.module.get_parameter("fc.weight").zero_()
    teacher.module.get_submodule("fc").register_forward_pre_hook(lambda _, x: (x[0].nan_to_num(0, 0, 0),))
    settings = tiny_settings(count=5, teacher=teacher)
    in_memory(replace(settings, precision="bfloat16"))
    with pytest.raises(
        UserError, match=r"not finite: .*[?.] Or try --kvbench-precision bfloat16: float16 ends at 65,504\."
    ):
        in_memory(replace(settings, precision="float16"))


def test_images_reach_the_teacher_with_channels_last() -> None:
    seen: list[bool] = []
    settings = tiny_settings(count=5)
    settings.teacher.module.register_forward_pre_hook(
        lambda _, x: seen.append(x[0].is_contiguous(memory_format=torch.channels_last))
    )
    in_memory(settings)
    assert seen[-1]


def test_taps_whose_width_changes_from_batch_to_batch_are_a_sentence() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, : 4 if len(x) == BATCH else 3]

    teacher = tiny_teacher()
    teacher.module.add_module("cut", Cut())
    teacher.module.get_submodule("second").register_forward_hook(
        lambda _m, _x, out: (teacher.module.get_submodule("cut")(out), out)[1]
    )
    with pytest.raises(UserError, match=r"The taps give \[4, 3\] features for some images and \[4, 4\] for others"):
        in_memory(tiny_settings(count=BATCH + 20, teacher=teacher, taps=("first", "cut")))


def test_channels_last_features_of_a_whole_pass() -> None:
    """A network of maps (B, H, W, C), of which the height is as long as there are channels elsewhere."""

    class Last(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            first = self.last(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            out: Tensor = self.fc(self.second(first).mean((2, 3)))
            return out

    plain = tiny_settings(count=20)
    net = Last()
    net.load_state_dict(plain.teacher.module.state_dict())
    settings = tiny_settings(count=20, teacher=frozen("last", net, TEN), taps=("last", "second"))
    assert torch.equal(in_memory(settings).taps[0], in_memory(plain).taps[0])
    pyramid = [in_memory(replace(one, pooling="pyramid")).taps[0] for one in (plain, settings)]
    assert torch.equal(*pyramid)


def test_a_banks_files_are_looked_at_once() -> None:
    class Counting(Dots):
        looks = 0

        @property
        def fingerprint(self) -> dict[str, Any]:
            Counting.looks += 1
            return super().fingerprint

    settings = tiny_settings(images=Counting(20))
    for _ in range(3):
        settings.path(Path(), "a")
    assert Counting.looks == 1


def test_a_tap_that_does_not_run_for_some_images_is_refused_and_its_last_output_not_taken_again() -> None:
    class Skips(TinyNet):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += len(x) == BATCH
            first = self.first(x)
            if self.calls < 2:  # in the second batch it does not
                self.second(first)
            out: Tensor = self.fc(first.mean((2, 3)).repeat(1, 2)[:, :6])
            return out

    teacher = frozen("skips", Skips(), TEN)
    with pytest.raises(UserError, match="Tap 'second' does not run for some of the images"):
        in_memory(tiny_settings(count=2 * BATCH, teacher=teacher))


class Drawing(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x))


class Remembering(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        self.fc.bias.data += 1 + torch.arange(10)
        return super().forward(x)


class OfTheBatch(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Softmax(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Drawing, "gives other logits each time for the same images"),
        (Remembering, "gives other logits each time for the same images"),
        (OfTheBatch, "gives an image other logits in another batch: its normalization"),
        (Softmax, "gives probabilities, not logits: leave its softmax out"),
    ],
)
def test_a_teacher_whose_logits_are_no_function_of_the_image_is_refused(kind: type[TinyNet], sentence: str) -> None:
    with pytest.raises(UserError, match=f"The teacher mine {sentence}"):
        check(tiny_settings(teacher=frozen("mine", kind(), TEN)))
