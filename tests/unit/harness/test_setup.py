"""Settings: devices, teachers and banks, as options choose them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kvbench.core.bank import FeatureBank
from kvbench.data.base import Images, Transform
from kvbench.features import extract
from kvbench.features import teacher as teacher_module
from kvbench.features.teacher import Teacher
from kvbench.harness import setup
from kvbench.harness.options import OPTIONS, STRATEGIES
from kvbench.harness.setup import Settings, at_chance, resolve_device, stacks_seeds
from kvbench.utils import environment
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from kvbench.utils.shares import Share
from kvbench.workloads import WORKLOADS, Workload, generated, workload
from tests.support import tiny_resnet
from tests.support.logs import logged
from tests.support.small import SMALL
from tests.support.tiny_resnet import TinyResNet

CPU = torch.device("cpu")
TINY = replace(SMALL, arch=tiny_resnet.NAME, size=32, train_count=40, val_count=20)


def small_settings(cache: Path, checkpoint: Path) -> Settings:
    return Settings(TINY, CPU, cache, checkpoint=checkpoint)


# Devices


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str = "", count: int = 0) -> None:
    """Let torch find ``count`` accelerators of ``kind``."""
    device = torch.device(kind) if kind else None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


def test_auto_is_an_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert resolve_device("auto") == CPU
    pretend(monkeypatch, "cuda", 2)
    assert resolve_device("auto") == torch.device("cuda")
    pretend(monkeypatch, "mps", 1)
    assert resolve_device("auto") == torch.device("mps")


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_seeds_are_stacked_on_an_accelerator_unless_told_otherwise(device: str) -> None:
    found = {strategy: stacks_seeds(strategy, torch.device(device)) for strategy in STRATEGIES}
    assert found == {"auto": device != "cpu", "interleaved": False, "stacked": True}


def test_a_device_may_have_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"No usable device 'cuda:2': .*finds 2 cuda devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu"])
def test_a_device_that_is_not_there_is_told_with_the_way_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(UserError, match=rf"No usable device '{name}': .*finds 0 .*--kvbench-device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:x", "cuda:-1", "meta", ""])
def test_an_unknown_device_names_the_valid_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"Unknown device .*auto, cpu, cuda, mps, xpu"):
        resolve_device(name)


# Workloads


def test_an_unknown_workload_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean fractals\? Valid: fractals, tiny-imagenet, imagenet, folder\."):
        workload("fractal")


def test_the_imagenet_workload_is_the_sources() -> None:
    row = workload("imagenet")
    assert (row.size, row.arch, row.teacher) == (256, "resnet18", "torchvision")
    assert (row.train_count, row.val_count) == (None, None)


@pytest.mark.parametrize("name", ["fractals", "tiny-imagenet", "imagenet", "folder"])
def test_workloads_have_the_sources_teacher_and_say_where_they_differ(name: str) -> None:
    row = workload(name)
    assert (row.name, row.arch, row.taps) == (name, "resnet18", ())  # whose taps are the last three blocks


def test_generated_images_need_a_number() -> None:
    with pytest.raises(UserError, match=r"images of fractals are generated: choose how many, such as train_count=4096"):
        workload("fractals").images("train", None, None)


# Teachers


def test_which_teacher_is_loaded(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(kind: str) -> object:
        return lambda *what: Teacher(f"{kind} {' '.join(map(str, what))}", torch.nn.Identity(), None, "")

    for kind in ("shipped", "pretrained", "from_checkpoint"):
        monkeypatch.setattr(teacher_module, kind, told(kind))

    def name(row: str, **changes: Any) -> str:
        return replace(Settings(WORKLOADS[row], CPU, Path()), **changes).teacher(("a",)).name

    assert name("fractals") == "shipped fractals"
    assert name("imagenet") == "pretrained resnet18 ('a',)"
    assert name("fractals", arch="resnet34", taps=("layer4",)) == "pretrained resnet34 ('a',)"
    assert name("fractals", arch="resnet34") == "pretrained resnet34 ('a',)"
    assert name("folder", checkpoint=Path("w.pt")) == "from_checkpoint w.pt resnet18 ('a',) 224"
    assert (
        name("fractals", checkpoint=Path("w.pt"), arch="vgg11", taps=("features.28",))
        == "from_checkpoint w.pt vgg11 ('a',) 64"
    )


class Seen(Exception):  # noqa: N818
    """What a bank was to be opened with."""


@pytest.mark.parametrize(
    ("changes", "taps"),
    [
        ({"arch": "resnet18"}, "layer3.1 layer4.0 layer4.1"),
        ({"arch": "squeezenet1_1"}, "features.4 features.7 features.12"),
        ({"taps": ("layer4",)}, "layer4"),
        ({"arch": "squeezenet1_1", "taps": ("features.5",)}, "features.5"),
        ({}, "layer1"),  # the workload's own
        ({"workload": replace(TINY, taps=())}, "layer2 layer3 layer4"),
    ],
)
def test_which_modules_are_tapped(
    changes: dict[str, Any], taps: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(store: Any, *_: Any, **__: Any) -> None:
        raise Seen(" ".join(store.settings.taps))

    monkeypatch.setattr(setup, "open_bank", see)
    monkeypatch.setattr(teacher_module, "from_checkpoint", lambda *_: teacher_module.frozen("x", TinyResNet(), None))
    chosen = Settings(replace(TINY, taps=("layer1",)), CPU, tmp_path, checkpoint=small_checkpoint)
    with pytest.raises(Seen, match=f"^{taps}$"):
        replace(chosen, **changes).open_banks()


def my_teacher(classes: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyResNet(classes)


@pytest.mark.parametrize("changes", [{"arch": my_teacher}, {"arch": "vgg11"}])
def test_a_teacher_of_ones_own_needs_no_file_and_no_taps(changes: dict[str, Any], tmp_path: Path) -> None:
    named = f"{__name__}:my_teacher"
    row = replace(TINY, taps=(), teacher="torchvision", **changes)
    settings = Settings(row, CPU, tmp_path, arch=named if changes["arch"] != my_teacher else "")
    banks = settings.open_banks()
    assert banks.train.widths == (8, 8, 16)
    assert banks.fingerprints["teacher"].startswith(f"{named} ")
    assert banks.fingerprints["taps"] == "layer2 layer3 layer4"


@pytest.mark.parametrize(
    ("row", "given", "size", "transform"),
    [
        ("folder", {}, 224, None),
        ("imagenet", {}, 256, None),
        ("folder", {"set": "size=96"}, 96, None),
        ("folder", {"teacher": "efficientnet_b1"}, 240, Transform(255)),
        ("folder", {"teacher": "efficientnet_b1", "set": "size=120"}, 120, Transform(128)),
        ("folder", {"teacher": "efficientnet_b1", "checkpoint": Path("a.pt")}, 224, None),  # trained on the workload's
        ("tiny-imagenet", {"teacher": "resnet50"}, 224, Transform(232)),
        ("tiny-imagenet", {}, 64, None),
        ("fractals", {"teacher": "resnet50"}, 64, None),  # drawn, not photographed
        ("folder", {"teacher": f"{__name__}:my_teacher"}, 224, None),
    ],
)
def test_images_are_prepared_as_pretrained_weights_need_them(
    row: str, given: dict[str, Any], size: int, transform: Transform | None
) -> None:
    values = {option.name: option.parse(option.default) for option in OPTIONS} | given
    chosen = Settings.of(values, replace(workload(row), size=size)).workload
    assert (chosen.size, chosen.transform) == (size, transform)


def test_a_workload_of_another_architecture_keeps_its_size_and_what_it_says_of_images() -> None:
    values = {option.name: option.parse(option.default) for option in OPTIONS}
    row = replace(workload("folder"), arch="efficientnet_b1", size=120)
    for checkpoint in (None, Path("a.pt")):  # which was trained on what `kvbench teacher train` sees
        chosen = Settings.of({**values, "checkpoint": checkpoint}, row)
        assert chosen.workload == replace(row, transform=Transform(128))
    row = replace(row, transform=Transform(130))
    assert Settings.of(values, row).workload == row


# Chance


def bank(classes: int, right: int, count: int) -> FeatureBank:
    """A bank of a teacher that is right on ``right`` of ``count`` images."""
    labels = torch.arange(count) % classes
    outputs = torch.where(torch.arange(count) < right, labels, (labels + 1) % classes)
    return FeatureBank((), torch.eye(classes)[outputs], labels)


@pytest.mark.parametrize(
    ("classes", "right", "count", "warned"),
    [
        (2, 50, 100, True),
        (2, 0, 100, True),  # as where two classes have changed places
        (2, 70, 100, False),
        (2, 5200, 10_000, True),  # above chance without doubt, and hardly
        (10, 2, 20, True),
        (10, 12, 20, False),
        (1000, 10, 5000, True),
        (1000, 500, 5000, False),
    ],
)
def test_a_teacher_at_chance_is_noted_with_the_order_of_its_outputs(
    classes: int, right: int, count: int, warned: bool
) -> None:
    names = tuple(f"c{i:03}" for i in range(classes))
    note = at_chance("mine", bank(classes, right, count), names)
    assert bool(note) == warned
    if warned:
        assert f"The teacher mine is right on {right / count:.1%} of the validation images" in note
        assert f"chance, {1 / classes:.1%}" in note
        assert "They are taken to be c000, c001" in note


def test_a_teacher_whose_outputs_have_another_order_is_warned_of_and_noted(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    state = load_file(small_checkpoint)
    turned = {key: value.flip(0).contiguous() if key.startswith("fc.") else value for key, value in state.items()}
    save_file(turned, tmp_path / "turned.safetensors")
    with logged() as messages:
        notes = small_settings(tmp_path / "cache", tmp_path / "turned.safetensors").open_banks().notes
    assert [note for note in notes if "hardly better than chance" in note]
    assert f"{notes[0]}." in messages


@pytest.mark.usefixtures("any_teacher")
def test_outputs_chosen_by_name_are_noted(small_checkpoint: Path, tmp_path: Path) -> None:
    row = replace(TINY, opener=generated(classes=4))
    weights = tmp_path / "ten.safetensors"
    weights.write_bytes(small_checkpoint.read_bytes())
    weights.with_suffix(".json").write_text(json.dumps({"classes": [f"ifs{k:04d}" for k in range(10)]}))
    banks = replace(small_settings(tmp_path, weights), workload=row).open_banks()
    assert banks.train.classes == 4
    assert banks.notes == ("4 of the teacher's 10 outputs are used, chosen by the classes' names",)


def test_settings_are_taken_from_options_values() -> None:
    values = {row.name: row.parse(row.default) for row in OPTIONS}
    row = WORKLOADS["fractals"]
    assert Settings.of(values | {"device": "cpu"}, row) == Settings(row, CPU, Path(".kvbench"))
    changed = Settings.of(values | {"device": "cpu", "teacher": "vgg11", "taps": ("a",)}, row, fresh=True)
    assert (changed.workload, changed.arch, changed.taps, changed.fresh) == (row, "vgg11", ("a",), True)


# Banks


@pytest.fixture
def any_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny teacher is not trained, and no better than chance: let nothing say so."""
    monkeypatch.setattr(setup, "at_chance", lambda *_: "")


@pytest.mark.usefixtures("any_teacher")
def test_both_banks_are_made_once_and_reused(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Progress] = []
    made = small_settings(tmp_path, small_checkpoint).open_banks(reports.append)
    assert (len(made.train), len(made.val)) == (40, 20)
    assert made.train.widths == made.val.widths == tiny_resnet.WIDTHS
    assert (made.train.classes, made.val.classes) == (10, 10)
    assert reports == [("small-train: teacher pass", 40, 40, "image"), ("small-val: teacher pass", 20, 20, "image")]
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == [
        "small-train",
        "small-val",
    ]

    def refuse(*_: object) -> None:
        raise AssertionError("a cached bank needs no teacher pass")

    monkeypatch.setattr(extract, "passing", refuse)
    again = small_settings(tmp_path, small_checkpoint).open_banks(reports.append)
    assert torch.equal(again.train.logits, made.train.logits)
    assert torch.equal(again.val.taps[0], made.val.taps[0])
    assert again.fingerprints == made.fingerprints
    assert len(reports) == 2
    assert again.notes == made.notes == ()


@pytest.mark.usefixtures("any_teacher")
def test_the_same_images_in_both_splits_are_noted_and_a_folder_that_is_not_read_is_warned_of(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = small_settings(tmp_path, small_checkpoint)

    def train_alone(row: Workload, _split: str, root: Path | None, count: int | None) -> Images:
        return TINY.opener(row, "train", root, count)

    twice = replace(settings, workload=replace(TINY, opener=train_alone), root=tmp_path)
    with logged() as messages:
        (note,) = twice.open_banks().notes
    assert note.startswith("The first 20 images of train and val are the same")
    assert messages == [
        f"The workload small generates its images: {tmp_path} is not read. For your own images: --kvbench-workload"
        " folder.",
        note,
    ]


def test_an_opener_that_fails_is_a_sentence_with_its_line(small_checkpoint: Path, tmp_path: Path) -> None:
    def fails(*_: object) -> Images:
        raise KeyError("train")

    settings = replace(small_settings(tmp_path, small_checkpoint), workload=replace(TINY, opener=fails))
    with pytest.raises(UserError, match=r"small fails for the train split: KeyError: 'train' \(.*setup\.py, line"):
        settings.open_banks()


@pytest.mark.usefixtures("any_teacher")
def test_features_that_were_made_elsewhere_are_noted(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(environment, "numerics", lambda: {"instructions": "ABACUS"})
        assert small_settings(tmp_path, small_checkpoint).open_banks().notes == ()
    monkeypatch.setattr(environment, "numerics", lambda: {"instructions": "AVX2"})
    with logged() as messages:
        notes = small_settings(tmp_path, small_checkpoint).open_banks().notes
    assert notes == tuple(
        f"The {split} features were computed elsewhere; what could change them: instructions AVX2 (recorded: ABACUS)"
        for split in ("train", "val")
    )
    assert messages == [f"{note}." for note in notes]


@pytest.mark.usefixtures("small_parts", "any_teacher")
def test_features_that_were_made_elsewhere_in_part_are_told_or_refused(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    settings = replace(small_settings(tmp_path, small_checkpoint), workload=replace(TINY, train_count=256))
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(environment, "numerics", lambda: {"instructions": "ABACUS"})
        with pytest.raises(KeyboardInterrupt):
            settings.open_banks(stop)
    monkeypatch.setattr(environment, "numerics", lambda: {"instructions": "AVX2"})
    (note,) = settings.open_banks().notes
    changed = "instructions AVX2 (recorded: ABACUS)"
    assert note == f"Some of the train features were computed elsewhere; what could change them: {changed}"
    pattern = re.escape(
        f"The train features were computed in part elsewhere ({changed}): remove {tmp_path}/small-train-"
    )
    with pytest.raises(UserError, match=pattern):
        replace(settings, mixed="refuse").open_banks()


def test_banks_that_find_no_room_on_the_device_are_told_with_a_remedy(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureBank, "to", lambda *_: torch.empty(2**60))
    with pytest.raises(UserError, match=r"not enough memory for the train features on cpu .*--kvbench-device"):
        small_settings(tmp_path, small_checkpoint).open_banks()


def test_fingerprints_tell_what_changed(small_checkpoint: Path, tmp_path: Path) -> None:
    base = small_settings(tmp_path, small_checkpoint)
    told = base.open_banks().fingerprints
    assert json.loads(json.dumps(told)) == told
    assert told["taps"] == "layer3.1 layer4.0 layer4.1"
    assert told["pooling"] == "global"
    assert str(tmp_path) not in json.dumps(told)

    def changed(other: Settings) -> set[str]:
        made = other.open_banks().fingerprints
        return {key for key in told if told[key] != made[key]}

    assert changed(replace(base, pooling="pyramid")) == {"pooling"}
    assert changed(replace(base, taps=("layer2.1", "layer4.0", "layer4.1"))) == {"taps"}
    assert changed(replace(base, workload=replace(TINY, val_count=21))) == {"val images"}
    assert changed(replace(base, precision="bfloat16")) == {"precision"}


@pytest.mark.usefixtures("small_parts", "any_teacher")
@pytest.mark.parametrize("fresh", [False, True])
def test_interrupted_banks_go_on_unless_they_are_to_be_fresh(
    fresh: bool, small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(small_settings(tmp_path, small_checkpoint), workload=replace(TINY, train_count=256), fresh=fresh)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.open_banks(stop)
    reports: list[Progress] = []
    with logged() as messages:
        settings.open_banks(reports.append)
    assert messages == ([] if fresh else ["small-train: resuming after 128 of 256 images."])
    assert [(one.done, one.total) for one in reports] == [(128, 256), (256, 256), (20, 20)]


@pytest.mark.usefixtures("small_parts", "any_teacher")
def test_a_share_of_the_banks_is_computed_before_the_rest(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(small_settings(tmp_path, small_checkpoint), workload=replace(TINY, train_count=256))
    reports: list[Progress] = []
    settings.open_banks(reports.append, Share(2, 2))
    passes = [(one.description.partition(":")[0], one.done, one.total) for one in reports]
    assert passes == [
        ("small-train", 128, 128),
        ("small-train", 128, 256),
        ("small-train", 256, 256),
        ("small-val", 20, 20),
    ]


def draw_classes(root: Path, **splits: list[str]) -> Path:
    for split, classes in splits.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (50, 100, 150)).save(root / split / name / "a.png")
    return root


def test_a_folder_of_ones_own_with_a_checkpoint(small_checkpoint: Path, tmp_path: Path) -> None:
    classes = [f"c{i}" for i in range(10)]
    root = draw_classes(tmp_path / "data", train=classes, val=classes)
    row = replace(WORKLOADS["folder"], arch=tiny_resnet.NAME, size=32)
    made = Settings(row, CPU, tmp_path / "cache", root, checkpoint=small_checkpoint).open_banks()
    assert (len(made.train), made.train.classes) == (10, 10)
    assert made.val.labels.tolist() == list(range(10))


def test_other_classes_in_val_than_in_train_are_named_and_nothing_is_written(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    root = draw_classes(tmp_path / "data", train=["cat", "dog"], val=["cat", "horse"])
    chosen = Settings(WORKLOADS["folder"], CPU, tmp_path / "cache", root, checkpoint=small_checkpoint)
    with pytest.raises(UserError, match=r"different classes in .*only in train: dog; only in val: horse\."):
        chosen.open_banks()
    assert not (tmp_path / "cache").exists()


def test_an_unreadable_image_is_named_and_no_bank_is_left(small_checkpoint: Path, tmp_path: Path) -> None:
    classes = [f"c{i}" for i in range(10)]
    root = draw_classes(tmp_path / "data", train=classes, val=classes)
    (root / "train" / "c7" / "a.png").write_bytes(b"hello")
    row = replace(WORKLOADS["folder"], arch=tiny_resnet.NAME, size=32)
    with pytest.raises(UserError, match=r"^Cannot read the image .*c7/a\.png"):
        Settings(row, CPU, tmp_path / "cache", root, checkpoint=small_checkpoint).open_banks()
    assert not (tmp_path / "cache").exists()
