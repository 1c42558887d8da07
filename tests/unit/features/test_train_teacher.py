"""Training a teacher: what it writes, that it goes on where it stopped, what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kvbench.core.recipe import TeacherRecipe
from kvbench.data.fractals import FractalImages
from kvbench.features import train_teacher as teacher_training
from kvbench.features.teacher import build, from_checkpoint
from kvbench.features.train_teacher import TeacherTask, accuracy, train_teacher
from kvbench.utils.errors import UserError
from tests.support import tiny_resnet
from tests.support.banks import largest_file
from tests.support.small import SMALL

CPU = torch.device("cpu")
ARCH = tiny_resnet.NAME
COMMAND = "kvbench teacher train --workload small"
RECIPE = TeacherRecipe(epochs=2, batch_size=16, augment=True)


class Interrupting(FractalImages):
    """Images that are interrupted when a batch to train on is asked for that was not granted."""

    granted = 10**9

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        self.granted -= len(indices) == RECIPE.batch_size  # not a look at the first images
        if self.granted < 0:
            raise KeyboardInterrupt
        return super().__getitems__(indices)


def task(**changes: Any) -> TeacherTask:
    """Two epochs of three batches; 50 images leave two over."""
    train, val = (Interrupting(s, n, classes=10, size=32) for s, n in (("train", 50), ("val", 30)))
    return replace(TeacherTask(ARCH, train, val, RECIPE, seed=0), **changes)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints every other step; what a training does to the global random state stays in its test."""
    monkeypatch.setattr(teacher_training, "CHECKPOINT_EVERY", 2)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of an undisturbed training."""
    out = tmp_path_factory.mktemp("trained") / "new" / "small.safetensors"
    train_teacher(task(), out, CPU, COMMAND)
    return out


def test_weights_are_half_precision_and_their_record_tells_where_they_come_from(trained: Path) -> None:
    assert sorted(path.name for path in trained.parent.iterdir()) == ["small.json", "small.safetensors"]
    state = load_file(trained)
    assert {v.dtype for v in state.values()} == {torch.float16, torch.int64}  # int64: BatchNorm's counters
    facts = json.loads(trained.with_suffix(".json").read_text())
    assert facts["command"] == COMMAND
    assert (facts["arch"], facts["seed"], facts["images_seen"]) == (ARCH, 0, 2 * 3 * 16)
    assert facts["recipe"]["epochs"] == 2
    assert facts["recipe"]["augment"] is True
    assert facts["sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    assert facts["classes"] == list(task().train.classes)
    assert facts["data"] == task().train.fingerprint
    assert {"python", "torch", "torchvision", "kvbench"} <= facts["versions"].keys()
    assert facts["hardware"].startswith("cpu")
    teacher = from_checkpoint(trained, ARCH, task().train.classes)
    held = accuracy(teacher.module, task().val, CPU)
    assert {key: facts[key] for key in held} == pytest.approx(held, rel=1e-4)
    assert facts["val_count"] == 30


def test_training_changes_every_layer(trained: Path) -> None:
    torch.manual_seed(0)
    fresh = build(ARCH, 10).state_dict()
    state = load_file(trained)
    assert all(not torch.equal(state[key], value.to(state[key].dtype)) for key, value in fresh.items())


# Six steps in two epochs; checkpoints after steps 2, 3, 4 and 6.
@pytest.mark.parametrize("granted", [1, 3, 4, 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(granted: int, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    stopped = task()
    assert isinstance(stopped.train, Interrupting)
    stopped.train.granted = granted
    with pytest.raises(KeyboardInterrupt):
        train_teacher(stopped, out, CPU, COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == (["small.checkpoint"] if granted > 1 else [])
    again = task()
    train_teacher(again, out, CPU, COMMAND)
    assert isinstance(again.train, Interrupting)
    asked = 10**9 - again.train.granted
    latest = max(step for step in (0, 2, 3, 4) if step <= granted)
    assert asked == 6 - latest, "steps before the checkpoint are not trained again"
    assert out.read_bytes() == trained.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json", "small.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"recipe": replace(RECIPE, lr=0.1)}, {"train": FractalImages("train", 51, classes=10, size=32)}],
)
def test_the_checkpoint_of_another_task_is_refused_and_kept(changes: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    stopped = task()
    assert isinstance(stopped.train, Interrupting)
    stopped.train.granted = 3
    with pytest.raises(KeyboardInterrupt):
        train_teacher(stopped, out, CPU, COMMAND)
    left = out.with_suffix(".checkpoint").read_bytes()
    with pytest.raises(UserError, match=r"small\.checkpoint is left from a training with other settings"):
        train_teacher(task(**changes), out, CPU, COMMAND)
    assert out.with_suffix(".checkpoint").read_bytes() == left
    assert not out.exists()


def test_a_checkpoint_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(4096), pytest.raises(UserError, match=r"^Cannot write .*small\.checkpoint: File too large\.$"):
        train_teacher(task(), tmp_path / "small.safetensors", CPU, COMMAND)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    images = Interrupting("train", 50, classes=10, size=32)
    images.granted = 0
    with pytest.raises(UserError, match=r"^Cannot write to the folder .*file.*: Not a directory\.$"):
        train_teacher(task(train=images), tmp_path / "file" / "small.safetensors", CPU, COMMAND)


def test_memory_that_runs_out_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_: torch.empty(2**60))
    with pytest.raises(UserError, match=rf"not enough memory for training {ARCH} on 16 images .*--kvbench-device"):
        train_teacher(task(), tmp_path / "small.safetensors", CPU, COMMAND)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "small.checkpoint").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"small\.checkpoint is damaged: remove it"):
        train_teacher(task(), tmp_path / "small.safetensors", CPU, COMMAND)


def _edit(saved: dict[int | str, Any], path: str, value: object) -> None:
    *folders, last = path.split("/")
    for name in folders:
        saved = saved[int(name) if name.isdigit() else name]
    if value is None:
        del saved[last]
    else:
        saved[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("step", 7),
        ("step", 1.5),
        ("step", 0),
        ("step", None),
        ("module", None),
        ("module/fc.bias", torch.zeros(9)),
        ("module/fc.bias", torch.zeros(10, dtype=torch.float64)),
        ("module/fc.bias", [0.0] * 10),
        ("optimizer/state/0/momentum_buffer", torch.zeros(3)),
        ("optimizer/state", {}),
        ("optimizer/param_groups", []),
        ("scheduler/total_steps", None),
        ("scheduler/last_epoch", 1),
        ("scheduler", [1]),
    ],
)
def test_a_checkpoint_that_holds_another_state_is_told_and_kept(path: str, value: object, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    stopped = task()
    assert isinstance(stopped.train, Interrupting)
    stopped.train.granted = 3
    with pytest.raises(KeyboardInterrupt):
        train_teacher(stopped, out, CPU, COMMAND)
    checkpoint = out.with_suffix(".checkpoint")
    saved = torch.load(checkpoint, weights_only=True)
    _edit(saved, path, value)
    torch.save(saved, checkpoint)
    left = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"small\.checkpoint holds no state of this training: remove it"):
        train_teacher(task(), out, CPU, COMMAND)
    assert checkpoint.read_bytes() == left


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({"val": FractalImages("val", 30, classes=11, size=32)}, "a.safetensors", r"different classes"),
        (
            {"arch": "inception_v3"},
            "a.safetensors",
            r"inception_v3 does not take images of 32 by 32 pixels .*--kvbench-set size=299",
        ),
        (
            {"arch": "vit_b_32", "train": Interrupting("train", 50, classes=10, size=40)},
            "a.safetensors",
            r"of 40 pixels",
        ),
        ({"recipe": replace(RECIPE, lr=1e30)}, "a.safetensors", r"diverged at step \d of 6: choose a smaller --lr"),
        ({"arch": "resnet19"}, "a.safetensors", r"Unknown torchvision model 'resnet19'"),
        ({}, "a.pt", r"a\.pt: name a file that ends in \.safetensors"),
        ({}, "a", r"a: name a file that ends in \.safetensors"),
    ],
)
def test_what_cannot_be_trained_is_told_and_nothing_is_written(
    changes: dict[str, Any], name: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        train_teacher(task(**changes), tmp_path / name, CPU, COMMAND)
    assert list(tmp_path.iterdir()) == []


def test_the_schedule_is_one_cycle_over_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[dict[str, Any]] = []
    step: Callable[..., Any] = torch.optim.SGD.step

    def spy(optimizer: torch.optim.SGD, *arguments: Any) -> Any:
        used.append(dict(optimizer.param_groups[0]))
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    train_teacher(task(recipe=replace(RECIPE, epochs=4)), tmp_path / "a.safetensors", CPU, COMMAND)
    rates = [group["lr"] for group in used]
    assert len(rates) == 12
    assert max(rates) == pytest.approx(RECIPE.lr, rel=0.1)
    assert rates.index(max(rates)) in {1, 2}  # the peak after a fifth of the steps
    assert rates[0] < RECIPE.lr / 10
    assert rates[-1] < RECIPE.lr / 100
    assert used[0]["nesterov"]
    assert used[0]["weight_decay"] == RECIPE.weight_decay


def test_every_epoch_sees_other_images_in_another_order_and_none_twice(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    class Noting(Interrupting):
        def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
            if len(indices) == RECIPE.batch_size:
                asked.append(indices)
            return super().__getitems__(indices)

    for seed in (0, 1):
        images = Noting("train", 50, classes=10, size=32)
        train_teacher(task(train=images, seed=seed), tmp_path / f"{seed}.safetensors", CPU, COMMAND)
    epochs = [[i for batch in asked[at : at + 3] for i in batch] for at in (0, 3, 6, 9)]
    assert all(len(set(order)) == len(order) == 48 for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4


def test_every_epoch_and_step_has_numbers_of_its_own() -> None:
    seeds = [
        teacher_training._generator(s, kind, i).initial_seed() for s in (0, 1) for kind in (0, 1) for i in range(9)
    ]
    assert len(set(seeds)) == len(seeds)


def test_accuracy_and_entropy_by_hand() -> None:
    class Always(nn.Module):
        """Says class 0 with probability 1/2 and each of the other nine with 1/18."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1 / 2] + [1 / 18] * 9).log().expand(len(x), 10)

    told = accuracy(Always(), SMALL.images("val", None, 45), CPU)
    assert told["val_accuracy"] == pytest.approx(5 / 45)
    assert told["val_count"] == 45
    assert told["val_entropy_nats"] == pytest.approx(0.5 * 0.693147 + 0.5 * 2.890372, rel=1e-5)


def test_a_batch_that_is_larger_than_the_split_is_the_split(tmp_path: Path) -> None:
    facts = train_teacher(task(recipe=replace(RECIPE, batch_size=1000)), tmp_path / "a.safetensors", CPU, COMMAND)
    assert (facts["recipe"]["batch_size"], facts["images_seen"]) == (50, 100)


def test_five_steps_can_be_trained(tmp_path: Path) -> None:
    facts = train_teacher(task(recipe=TeacherRecipe(epochs=5, batch_size=50)), tmp_path / "a.safetensors", CPU, COMMAND)
    assert facts["images_seen"] == 250


def test_weights_of_other_classes_are_written_over(tmp_path: Path) -> None:
    out, recipe = tmp_path / "a.safetensors", TeacherRecipe(epochs=1, batch_size=50)
    train_teacher(task(recipe=recipe), out, CPU, COMMAND)
    train, val = (FractalImages(s, n, classes=5, size=32) for s, n in (("train", 50), ("val", 30)))
    facts = train_teacher(task(train=train, val=val, recipe=recipe), out, CPU, COMMAND)
    assert len(facts["classes"]) == 5


def test_weights_that_half_precision_cannot_hold_are_told() -> None:
    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), float("nan"))

    with pytest.raises(UserError, match=r"not finite in half precision"):
        accuracy(Lost(), SMALL.images("val", None, 5), CPU)
