"""Feature banks: what one teacher pass leaves, kept whole, and made again only when settings change."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from conftest_small import SMALL
from torch import Tensor, nn

from kvbench import bank
from kvbench.bank import ROUNDING, BankSettings, FeatureBank, extract, load, open_bank, save
from kvbench.errors import UserError
from kvbench.models import student
from kvbench.teacher import Teacher, frozen
from kvbench.trainer import distillation_loss

CPU = torch.device("cpu")
TEN = tuple(f"ifs{k:04d}" for k in range(10))


class TinyNet(nn.Module):
    """Two maps and logits, small enough to compute again by hand; counts its passes."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6, classes)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.fc(self.second(self.first(x)).mean((2, 3)))
        return out


def tiny_teacher(classes: int = 10, names: tuple[str, ...] | None = TEN) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return frozen("tiny", TinyNet(classes), names)


def tiny_settings(count: int = 150, **changes: Any) -> BankSettings:
    settings = BankSettings(SMALL.images("train", None, count), tiny_teacher(), ("first", "second"))
    return replace(settings, **changes)


def assert_equal(one: FeatureBank, other: FeatureBank) -> None:
    assert len(one.taps) == len(other.taps)
    pairs = zip((*one.taps, one.logits, one.labels), (*other.taps, other.logits, other.labels), strict=True)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_bank_holds_pooled_taps_logits_and_labels_in_the_images_order() -> None:
    settings = tiny_settings()
    ticks: list[int] = []
    made = extract(settings, CPU, ticks.append)
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
    assert sum(ticks) == 150
    assert len(ticks) == 2


def test_pyramid_pooling_keeps_more_cells_of_shallow_taps() -> None:
    settings = tiny_settings(count=5, pooling="pyramid")
    made = extract(settings, CPU)
    net = settings.teacher.module
    assert isinstance(net, TinyNet)
    first = net.first(settings.images.__getitems__([*range(5)])[0])
    second = net.second(first)
    cells = round(first.shape[2] / second.shape[2])
    assert cells > 1
    assert made.widths == (4 * cells**2, 6)
    assert torch.allclose(made.taps[0], nn.functional.adaptive_avg_pool2d(first, cells).flatten(1), atol=1e-5)


def test_a_student_trains_on_a_bank_straight_from_the_pass() -> None:
    made = extract(tiny_settings(count=20, taps=("first", "first", "second")), CPU)
    module = student("Model3").build(made.widths, made.classes)
    xs, teacher_logits, _ = made.batch(slice(0, 10))
    distillation_loss(module(xs), teacher_logits).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_bank_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    settings = tiny_settings()
    made = extract(settings, CPU)
    save(made, tmp_path / "a.safetensors", settings.fingerprint)
    back = load(tmp_path / "a.safetensors", settings.fingerprint)
    assert_equal(made, back)
    assert back.teacher_accuracy == made.teacher_accuracy
    assert_equal(back, back.to(CPU))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_bank_is_memory_mapped_also_after_a_move_to_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(extract(tiny_settings(), CPU), path, tiny_settings().fingerprint)
    back = load(path, tiny_settings().fingerprint).to(CPU)
    mapped = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    for tensor in (*back.taps, back.logits, back.labels):
        assert any(start <= tensor.data_ptr() < end for start, end in mapped)


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


def test_a_cached_bank_needs_no_teacher_pass(tmp_path: Path) -> None:
    settings = tiny_settings()
    net = settings.teacher.module
    assert isinstance(net, TinyNet)
    first = open_bank(settings, tmp_path, "a", CPU)
    assert net.passes == 2
    assert_equal(first, open_bank(settings, tmp_path, "a", CPU))
    assert_equal(first, open_bank(tiny_settings(), tmp_path, "a", CPU))
    assert net.passes == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_every_setting_leads_to_another_file(tmp_path: Path) -> None:
    other_weights = tiny_teacher()
    with torch.no_grad():
        other_weights.module.get_parameter("fc.bias")[0] += 1
    every = [
        tiny_settings(),
        tiny_settings(count=151),
        tiny_settings(images=SMALL.images("val", None, 150)),
        tiny_settings(teacher=frozen("tiny", other_weights.module, TEN)),
        tiny_settings(teacher=frozen("tinier", tiny_teacher().module, TEN)),
        tiny_settings(taps=("second", "first")),
        tiny_settings(pooling="pyramid"),
    ]
    assert len({settings.path(tmp_path, "a") for settings in every}) == len(every)
    assert tiny_settings().path(tmp_path, "a") == tiny_settings().path(tmp_path, "a")
    assert all(json.loads(json.dumps(settings.fingerprint)) == settings.fingerprint for settings in every)


def test_a_bank_of_other_settings_names_what_differs(tmp_path: Path) -> None:
    settings = tiny_settings(count=20)
    path = tmp_path / "a.safetensors"
    save(extract(settings, CPU), path, settings.fingerprint)
    wanted = replace(settings, pooling="pyramid", taps=("second", "first"))
    with pytest.raises(UserError, match=r"a\.safetensors was made with other settings \(pooling, taps\): remove it"):
        load(path, wanted.fingerprint)
    with pytest.raises(UserError, match=r"\(data\)"):
        load(path, tiny_settings(count=21).fingerprint)


@pytest.mark.parametrize("damage", ["empty", "cut short", "no header", "of other things", "without its settings"])
def test_a_damaged_bank_is_told_in_a_sentence(damage: str, tmp_path: Path) -> None:
    settings = tiny_settings(count=20)
    path = settings.path(tmp_path, "a")
    open_bank(settings, tmp_path, "a", CPU)
    content = path.read_bytes()
    if damage == "of other things":
        metadata = {"fingerprint": json.dumps(settings.fingerprint)}
        safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata)
    elif damage == "without its settings":
        safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes({"empty": b"", "cut short": content[:-100], "no header": b"hello" * 100}[damage])
    with pytest.raises(UserError, match=r"remove it, and it is made again") as told:
        open_bank(settings, tmp_path, "a", CPU)
    assert str(path) in str(told.value)
    assert path.exists(), "a user's file is never removed for them"


def test_a_save_that_fails_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_tensors: object, path: Path, _metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(bank, "save_file", fail)
    with pytest.raises(UserError, match=r"Cannot write .*: No space left"):
        open_bank(tiny_settings(count=20), tmp_path, "a", CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    settings = tiny_settings()
    with pytest.raises(KeyboardInterrupt):
        open_bank(settings, tmp_path, "a", CPU, fail)
    assert list(tmp_path.iterdir()) == []
    assert sum(len(part._forward_hooks) for part in settings.teacher.module.modules()) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_whose_logits_are_not_finite_is_told(value: float) -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.module.get_parameter("fc.bias")[3] = value
    with pytest.raises(UserError, match=r"teacher tiny gives logits that are not finite"):
        extract(tiny_settings(count=5, teacher=teacher), CPU)


def test_data_with_another_number_of_classes_than_the_teacher_is_told() -> None:
    with pytest.raises(UserError, match=r"has 10 classes, the teacher tiny 12 outputs.*--kvbench-checkpoint"):
        extract(tiny_settings(count=5, teacher=tiny_teacher(12, None)), CPU)


def test_data_with_other_class_names_than_the_teacher_are_told() -> None:
    other = tiny_teacher(names=(*TEN[:9], "cat"))
    with pytest.raises(UserError, match=r"only on one side: cat, ifs0009\."):
        extract(tiny_settings(count=5, teacher=other), CPU)
    turned = tiny_teacher(names=TEN[::-1])
    with pytest.raises(UserError, match=r"the order differs"):
        extract(tiny_settings(count=5, teacher=turned), CPU)


def test_a_tap_that_does_not_exist_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No tap 'third'"):
        open_bank(tiny_settings(taps=("first", "third")), tmp_path / "cache", "a", CPU)
    assert list(tmp_path.iterdir()) == []


def test_the_pass_stays_on_its_device() -> None:
    class MetaImages:
        classes = TEN
        fingerprint: ClassVar[dict[str, Any]] = {}

        def __len__(self) -> int:
            return 6

        def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(indices), 3, 32, 32), torch.zeros(len(indices), dtype=torch.long)

    seen: list[torch.device] = []
    teacher = tiny_teacher()
    teacher.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].device))
    # Meta tensors hold no numbers: the pass goes through the whole network before it asks for some.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        extract(BankSettings(MetaImages(), teacher, ("first", "second")), torch.device("meta"))
    assert [device.type for device in seen] == ["meta"]
    assert {p.device.type for p in teacher.module.parameters()} == {"meta"}


def test_a_bank_rounded_otherwise_differs_in_the_last_places_of_what_is_computed() -> None:
    g = torch.Generator().manual_seed(0)
    made = FeatureBank((torch.randn(50, 4, generator=g),), torch.randn(50, 3, generator=g), torch.arange(50) % 3)
    before = made.taps[0].clone()
    moved = made.rounded_otherwise(seed=1)
    for one, other in ((made.taps[0], moved.taps[0]), (made.logits, moved.logits)):
        relative = ((other - one) / one).abs()
        assert 0 < float(relative.max()) < 6 * ROUNDING
        assert float(relative.square().mean().sqrt()) == pytest.approx(ROUNDING, rel=0.2)
    assert torch.equal(moved.labels, made.labels)
    assert torch.equal(made.taps[0], before)
    assert torch.equal(made.rounded_otherwise(seed=1).logits, moved.logits)
    assert not torch.equal(made.rounded_otherwise(seed=2).logits, moved.logits)
