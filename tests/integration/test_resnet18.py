"""ResNet18 itself: its widths, its shipped weights, and the source's loop on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvbench.core.hooks import capture, pool
from kvbench.core.run import Run
from kvbench.features.architecture import SHIPPED, SOURCES_TAPS
from kvbench.features.spec import BankSettings
from kvbench.features.teacher import Teacher, build, from_checkpoint, shipped
from kvbench.harness.setup import Banks, Settings
from kvbench.mutation.faults import FAULTS
from kvbench.studies.experiment import Experiment
from kvbench.utils.errors import UserError
from kvbench.workloads import WORKLOADS
from tests.support import plain_loop
from tests.support.banks import in_memory, open_bank
from tests.support.small import SMALL, study
from tests.support.trainer import CPU, METRICS, history

LAYERS = ("layer1.1", "layer2.1", "layer3.1", "layer4.1")


@pytest.mark.parametrize(("kind", "widths"), [("global", [64, 128, 256, 512]), ("pyramid", [4096, 2048, 1024, 512])])
def test_widths_of_resnet18_at_256_pixels(kind: str, widths: list[int]) -> None:
    with torch.device("meta"):
        module = build("resnet18", 10)
        with capture(module, LAYERS) as captured:
            module(torch.empty(2, 3, 256, 256))
    pooled = pool([captured[tap] for tap in LAYERS], kind)
    assert [tuple(x.shape) for x in pooled] == [(2, d) for d in widths]
    assert all(x.is_meta for x in pooled)


@pytest.mark.parametrize("chosen", ["Model1", "lr_Model3", "Model7"])
def test_training_on_banks_gives_the_history_of_the_sources_loop(
    chosen: str, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Two whole batches and a part of one; at a higher lr so short a training multiplies the last bits' differences.
    workload = replace(SMALL, size=32, train_count=150)
    images = {"train": workload.images("train", None, 150), "val": workload.images("val", None, 60)}
    teacher = from_checkpoint(small_checkpoint, "resnet18", images["train"].classes)
    cache = tmp_path_factory.getbasetemp() / "banks"
    banks = {
        split: open_bank(BankSettings(part, teacher, SOURCES_TAPS), cache, split, CPU) for split, part in images.items()
    }
    row = next(row for row in Experiment(study(lr=1e-3), workload).configurations if row.id == chosen)
    fast = history(Run(row, banks["train"], banks["val"], seed=3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = row.student.build(banks["train"].select(row.student.taps).widths, 10)
    plain = plain_loop.train(
        teacher.module, module, row.student.taps, images["train"], images["val"], row.recipe, seed=3
    )
    assert len(plain) == len(fast) == 3
    for obtained, expected in zip(fast, plain, strict=True):
        assert [obtained[name] for name in METRICS[:2]] == pytest.approx(
            [expected[name] for name in METRICS[:2]], rel=1e-3
        )
        # One image of 60 may change sides on the last bits of its logits.
        assert [obtained[name] for name in METRICS[2:]] == pytest.approx(
            [expected[name] for name in METRICS[2:]], abs=1.5 / 60
        )
    assert plain[0]["train_loss"] > 1.1 * plain[-1]["train_loss"], "an equality of untrained students says nothing"


TEN = tuple(f"ifs{k:04d}" for k in range(10))


def assert_frozen(teacher: Teacher) -> None:
    assert not any(part.training for part in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())


def test_a_teacher_pass_changes_nothing_and_needs_no_gradient(resnet18_checkpoint: Path) -> None:
    teacher = from_checkpoint(resnet18_checkpoint, "resnet18", TEN)
    before = {k: v.clone() for k, v in teacher.module.state_dict().items()}
    assert "layer4.1.bn2.running_mean" in before
    bank = in_memory(BankSettings(SMALL.images("train", None, 20), teacher, SOURCES_TAPS))
    after = teacher.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items()), "BatchNorm statistics count, too"
    assert_frozen(teacher)
    assert not any(t.requires_grad for t in (*bank.taps, bank.logits))
    assert sum(len(part._forward_hooks) for part in teacher.module.modules()) == 0


def test_the_shipped_teacher_of_fractals_is_the_one_its_record_describes() -> None:
    teacher = shipped("fractals")
    assert_frozen(teacher)
    facts = json.loads((SHIPPED / "fractals.json").read_text())
    assert hashlib.sha256((SHIPPED / "fractals.safetensors").read_bytes()).hexdigest() == facts["sha256"]
    images = WORKLOADS["fractals"].images("val", None, 64)
    assert teacher.classes == images.classes == tuple(facts["classes"])
    assert facts["data"] == WORKLOADS["fractals"].images("train", None, facts["data"]["count"]).fingerprint
    pixels, labels = images.__getitems__([*range(0, 64)])
    right = float((teacher.module(pixels).argmax(1) == labels).float().mean())
    assert right == pytest.approx(facts["val_accuracy"], abs=0.2)  # four standard errors of 64 images
    assert 0.9 <= facts["val_accuracy"] < 1


@pytest.fixture(scope="module")
def clean(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Banks]:
    """Settings of few images, and their banks without a fault."""
    row = replace(SMALL, train_count=20, val_count=10)
    settings = Settings(row, torch.device("cpu"), tmp_path_factory.mktemp("clean"), checkpoint=small_checkpoint)
    return settings, settings.open_banks()


@pytest.mark.parametrize(
    "name", [name for name, row in FAULTS.items() if row.teacher and name != "teacher-in-train-mode"]
)
def test_a_fault_of_the_teachers_pass_reaches_the_banks(
    name: str, clean: tuple[Settings, Banks], tmp_path: Path
) -> None:
    settings, banks = clean
    with FAULTS[name].inject():
        made = replace(settings, cache=tmp_path).open_banks()
    for one, other in ((banks.train, made.train), (banks.val, made.val)):
        assert any(not torch.equal(a, b) for a, b in zip(one.taps, other.taps, strict=True))
        assert torch.equal(one.labels, other.labels)


def test_a_teacher_in_train_mode_is_refused(clean: tuple[Settings, Banks], tmp_path: Path) -> None:
    with FAULTS["teacher-in-train-mode"].inject(), pytest.raises(UserError, match="other logits in another batch"):
        replace(clean[0], cache=tmp_path).open_banks()
