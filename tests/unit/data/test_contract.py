"""What a data set promises: anything else is one sentence that names the image, what came and what is valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kvbench.data.contract import check_fingerprint, check_repeatable, check_splits, warn_missing_classes
from kvbench.data.loader import batches
from kvbench.utils.errors import UserError
from tests.support.logs import logged

Batch = tuple[Tensor, Tensor]


class Noise:
    """Sound images of three classes, but for what ``spoil`` makes of a batch."""

    mtime_digest = ""

    def __init__(self, spoil: Callable[[Tensor, Tensor], Any] = lambda x, y: (x, y), count: int = 9):
        self.spoil, self.count = spoil, count
        self.classes: Any = ("a", "b", "c")
        self.fingerprint: Any = {"images": "noise"}

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> Any:
        drawn = [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in indices]
        return self.spoil(torch.stack(drawn), torch.tensor(indices) % 3)


def read(images: Noise) -> list[Batch]:
    return list(batches(images, 4))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_sound_images_of_any_integer_dtype_come_as_they_are(dtype: torch.dtype) -> None:
    pixels, labels = zip(*read(Noise(lambda x, y: [x, y.to(dtype)])), strict=True)
    assert torch.cat(pixels).shape == (9, 3, 8, 8)
    assert torch.cat(labels).tolist() == [0, 1, 2] * 3


class Pixels(Tensor):
    pass


def test_gradients_and_subclasses_of_tensor_are_left_behind() -> None:
    for spoil in (lambda x, y: (x.requires_grad_(), y), lambda x, y: (x.as_subclass(Pixels), y.as_subclass(Pixels))):
        (pixels, labels), *_ = read(Noise(spoil))
        assert not pixels.requires_grad
        assert type(pixels) is type(labels) is Tensor


LABELS: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("from 1", lambda y: y + 1, r"image 2: the label is 3; valid are whole numbers from 0 to 2, .*count from 1\?"),
    ("negative", lambda y: y - 1, r"image 0: the label is -1; valid are whole numbers from 0 to 2"),
    ("larger", lambda y: y * 2, r"image 2: the label is 4; valid are whole numbers from 0 to 2, the 3 classes\."),
    ("fractions", lambda y: y / 2, r"image 0: the label 0\.0 is torch\.float32; .*as torch\.int64"),
    ("whole floats", lambda y: y.double(), r"image 0: the label 0\.0 is torch\.float64; .*as torch\.int64"),
    ("bool", lambda y: y > 0, r"image 0: the label False is torch\.bool"),
    ("complex", lambda y: y + 0j, r"torch\.complex64"),
    ("one-hot", lambda y: torch.nn.functional.one_hot(y, 3), r"images 0 to 3: labels of shape \(4, 3\), one-hot"),
    ("a column", lambda y: y[:, None], r"labels of shape \(4, 1\) for 4 indices; valid is one label for each"),
    ("too few", lambda y: y[1:], r"labels of shape \(3,\) for 4 indices"),
    ("scalar", lambda y: y[0], r"labels of shape \(\) for 4 indices"),
    ("a list", lambda y: y.tolist(), r"labels must be a torch\.Tensor; got list"),
    ("numpy", lambda y: y.numpy(), r"labels must be a torch\.Tensor; got ndarray"),
    ("none", lambda _: None, r"labels must be a torch\.Tensor; got NoneType"),
    ("elsewhere", lambda y: y.to("meta"), r"labels must be a dense tensor on the CPU; got .* on meta"),
    ("sparse", lambda y: y.to_sparse(), r"labels must be a dense tensor on the CPU; got torch\.sparse_coo"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "sentence"), [row[1:] for row in LABELS], ids=[row[0] for row in LABELS])
def test_labels_of_another_kind_are_refused(spoil: Callable[[Tensor], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^Noise.*{sentence}"):
        read(Noise(lambda x, y: (x, spoil(y))))


PIXELS: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("uint8", lambda x: x.to(torch.uint8), r"images 0 to 3: torch\.uint8; valid is torch\.float32: scale"),
    ("double", Tensor.double, r"torch\.float64; valid is torch\.float32: return images\.float\(\)"),
    ("half", Tensor.half, r"torch\.float16; valid is torch\.float32"),
    ("channels last", lambda x: x.permute(0, 2, 3, 1), r"shape \(4, 8, 8, 3\); valid is \(B, 3, size, size\).*permute"),
    ("gray", lambda x: x[:, :1], r"shape \(4, 1, 8, 8\); .*three channels"),
    ("no channel", lambda x: x[:, 0], r"shape \(4, 8, 8\); valid is \(B, 3, size, size\)"),
    ("RGBA", lambda x: torch.cat([x, x[:, :1]], 1), r"shape \(4, 4, 8, 8\)"),
    ("flat", lambda x: x.flatten(1), r"shape \(4, 192\)"),
    ("too few", lambda x: x[1:], r"images 0 to 3: 3 images came for 4 indices"),
    ("too many", lambda x: torch.cat([x, x]), r"8 images came for 4 indices"),
    ("wide", lambda x: x[:, :, 1:], r"shape \(4, 3, 7, 8\); .*as high as wide"),
    ("without pixels", lambda x: x[:, :, :0, :0], r"shape \(4, 3, 0, 0\)"),
    ("numpy", np.asarray, r"images must be a torch\.Tensor; got ndarray"),
    ("a list", list, r"images must be a torch\.Tensor; got list"),
    ("elsewhere", lambda x: x.to("meta"), r"images must be a dense tensor on the CPU; got .* on meta"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "sentence"), [row[1:] for row in PIXELS], ids=[row[0] for row in PIXELS])
def test_images_of_another_kind_are_refused(spoil: Callable[[Tensor], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^Noise.*{sentence}"):
        read(Noise(lambda x, y: (spoil(x), y)))


@pytest.mark.parametrize(
    ("spoil", "came"),
    [
        (lambda x, _: x, "Tensor"),
        (lambda x, y: (x, y, y), "tuple of 3"),
        (lambda x, y: {"x": x, "y": y}, "dict of 2"),
        (lambda *_: None, "NoneType"),
    ],
)
def test_what_is_no_pair_is_refused(spoil: Callable[[Tensor, Tensor], Any], came: str) -> None:
    with pytest.raises(
        UserError, match=rf"__getitems__ must return images and labels, a pair of tensors; got {came}\."
    ):
        read(Noise(spoil))


def test_two_sizes_in_one_split_are_refused() -> None:
    sizes = iter([8, 6])
    with pytest.raises(UserError, match="images of 8 and of 6 pixels"):
        read(Noise(lambda x, y: (x[:, :, : (n := next(sizes)), :n], y)))


def test_an_error_of_the_data_set_is_a_sentence_with_its_place() -> None:
    def fail(*_: object) -> None:
        raise KeyError("pixels")

    with pytest.raises(
        UserError, match=r"Noise\.__getitems__ failed for images 0 to 3: KeyError: 'pixels' \(.*\.py, line"
    ):
        read(Noise(fail))

    def starve(*_: object) -> None:
        raise MemoryError

    with pytest.raises(UserError, match="not enough memory for reading images"):
        read(Noise(starve))


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (("a", "b", "a"), r"Noise\.classes of the train split names a class twice: a\."),
        ((0, 1, 2), r"must be a tuple of names, one string for each class; got 0 \(tuple\)"),
        (("a", ""), r"must be a tuple of names.*got '' \(tuple\)"),
        (["a", "b"], r"must be a tuple of names.*\(list\)"),
        ("abc", r"must be a tuple of names.*\(str\)"),
        (None, r"must be a tuple of names.*got None \(NoneType\)"),
        (3, r"must be a tuple of names.*got 3 \(int\)"),
        ((), r"There is no class: Noise.classes is empty"),
    ],
)
def test_classes_that_are_no_different_names_are_refused(classes: Any, sentence: str) -> None:
    images = Noise()
    images.classes = classes
    with pytest.raises(UserError, match=sentence):
        check_splits(images, images, None)


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_two_classes_of_one_split_that_look_the_same_are_refused(one: str, other: str) -> None:
    images = Noise()
    images.classes = (one, "dog", other)
    with pytest.raises(UserError, match=r"Two classes of the train split look the same: .*put their images into one"):
        check_splits(images, images, None)
    images.classes = ("Cat", "cat", "dog")  # a difference that can be seen
    check_splits(images, images, None)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"^The val split in /data \(Noise\) is empty"):
        check_splits(Noise(), Noise(count=0), Path("/data"))


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        (
            "caf\u00e9",
            "cafe\u0301",
            r"'caf\\xe9' in train, 'cafe\\u0301' in val \(the same letters in two Unicode forms",
        ),
        ("cat", "cat ", r"'cat' in train, 'cat ' in val \(blanks or invisible"),
        ("cat", "cat\u200b", r"'cat' in train, 'cat\\u200b' in val \(blanks or invisible"),
        ("Cat", "cat", r"'Cat' in train, 'cat' in val \(upper and lower case"),
    ],
)
def test_names_that_look_alike_are_told_apart(train: str, val: str, sentence: str) -> None:
    one, two = Noise(), Noise()
    one.classes, two.classes = ("a", train), ("a", val)
    with pytest.raises(
        UserError, match=f"different classes; some look alike and are not: {sentence}.*Rename one of each"
    ):
        check_splits(one, two, None)


@pytest.mark.parametrize(
    ("fingerprint", "sentence"),
    [
        ({"path": Path()}, "must be a dictionary of texts, numbers and lists, as JSON holds them"),
        ({"mean": float("nan")}, "must be a dictionary of texts"),
        ({}, r"must be a dictionary that says what decides the pixels; got \{\}"),
        ("noise", 'must be a dictionary .*got "noise"'),
        (None, "must be a dictionary .*got null"),
    ],
)
def test_a_fingerprint_that_names_no_bank_is_refused(fingerprint: Any, sentence: str) -> None:
    images = Noise()
    images.fingerprint = fingerprint
    with pytest.raises(UserError, match=rf"^Noise\.fingerprint {sentence}"):
        check_fingerprint(images)


def test_a_fingerprint_that_changes_is_refused() -> None:
    class Changing(Noise):
        calls = 0

        @property
        def fingerprint(self) -> dict[str, int]:
            Changing.calls += 1
            return {"call": Changing.calls}

        @fingerprint.setter
        def fingerprint(self, _: object) -> None:
            pass

    with pytest.raises(UserError, match="is another each time it is asked for"):
        check_repeatable(Changing())


def test_images_that_differ_when_read_again_are_refused() -> None:
    check_repeatable(Noise())
    with pytest.raises(
        UserError, match=r"Noise, image 0: read twice, it has other pixels the second time.*augmentation"
    ):
        check_repeatable(Noise(lambda x, y: (x + torch.rand(()), y)))
    draws = iter([0, 1])
    with pytest.raises(UserError, match="read twice, it has another label"):
        check_repeatable(Noise(lambda x, y: (x, torch.full_like(y, next(draws)))))


@pytest.mark.parametrize(("scale", "shift", "warned"), [(1, 0, False), (60, 127, True), (0.1, 0.5, True)])
def test_images_that_are_not_normalized_are_warned_of(scale: float, shift: float, warned: bool) -> None:
    with logged() as messages:
        check_repeatable(Noise(lambda x, y: ((x.clamp(-2, 2) * scale + shift), y)))
    assert len(messages) == warned
    assert all("Teachers expect normalized ones" in message for message in messages)


def test_a_split_without_some_class_is_warned_of() -> None:
    with logged() as messages:
        warn_missing_classes(torch.tensor([0, 1, 2, 0]), ("a", "b", "c"), "val")
        warn_missing_classes(torch.tensor([0, 1]), ("a", "b", "c"), "val")  # as few as were asked for
    assert messages == []
    with logged() as messages:
        warn_missing_classes(torch.tensor([1, 2, 2, 1]), ("a", "b", "c"), "val")
    assert messages == ["val has no image of 1 of 3 classes: a."]


@pytest.mark.parametrize(
    "read",
    [
        lambda images, indices: Noise.__getitems__(images, sorted(indices)),
        lambda images, indices: Noise.__getitems__(images, [*range(len(indices))]),
    ],
    ids=["sorted", "the first ones"],
)
def test_images_that_do_not_come_in_the_order_of_their_indices_are_refused(read: Any) -> None:
    images = type("Noise", (Noise,), {"__getitems__": read})()
    with pytest.raises(UserError, match=r"Noise\.__getitems__ gives other images for \[3, 2, 1, 0\] than for"):
        check_repeatable(images)


@pytest.mark.parametrize("lost", ["classes", "fingerprint", "mtime_digest", "__getitems__", "__len__"])
def test_a_data_set_that_lacks_something_is_a_sentence(lost: str) -> None:
    images: Any = type("Own", (), {"count": 10})()
    for name in {"classes", "fingerprint", "mtime_digest"} - {lost}:
        setattr(images, name, {"classes": ("a", "b"), "fingerprint": {"x": 1}, "mtime_digest": ""}[name])
    for name in {"__getitems__", "__len__"} - {lost}:
        setattr(type(images), name, getattr(Noise, name))
    with pytest.raises(UserError, match=rf"^Own\.{lost} gives \w+Error: .*A data set has classes, fingerprint"):  # noqa: PT012
        check_splits(images, images, None)
        check_fingerprint(images)


def test_a_fingerprint_is_what_a_file_returns_of_it() -> None:
    images = Noise()
    images.fingerprint = {"size": (32, 32), "names": {1: "a"}}
    assert check_fingerprint(images) == {"size": [32, 32], "names": {"1": "a"}}
