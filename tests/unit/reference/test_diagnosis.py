"""Where to look, from what moved."""

from __future__ import annotations

import pytest

import tests.support.synthetic as made_up
from kvbench.reference.diagnosis import SHARED, diagnose

LOSS = ("train_loss", "val_loss", "val_accuracy")


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (made_up.ALL, SHARED),
        ([name for name in made_up.ALL if name.startswith("lr_")], "the schedule"),
        ([name for name in made_up.ALL if not name.startswith("lr_")], "the constant learning rate"),
        (["lr_Model1", "lr_Model4"], "the schedule"),
        (["Model7", "lr_Model7"], "Model7, the one student that drifted"),
        (["Model5"], "Model5, the one student that drifted"),
        ([n for n in made_up.ALL if n[-1] in "34567"], "the memories"),
        ([n for n in made_up.ALL if n[-1] in "12"], "the linear heads"),
        ([n for n in made_up.ALL if n[-1] in "347"], "GELU"),
        ([n for n in made_up.ALL if n[-1] in "46"], "frozen memories"),
        (["Model1", "lr_Model3", "Model7"], "what Model1, Model7, lr_Model3 have in common"),
    ],
)
def test_it_names_what_the_moved_ones_share(moved: list[str], words: str) -> None:
    told = diagnose(dict.fromkeys(moved, LOSS), made_up.ALL)
    assert words in told
    assert told.startswith(f"{len(moved)} of 14 configurations drifted.")


def test_it_tells_validation_from_training() -> None:
    assert "look at validation" in diagnose({"Model1": ("val_loss", "val_accuracy")}, made_up.ALL)
    assert "how the loss is computed" in diagnose({"Model1": ("train_loss",)}, made_up.ALL)
    assert "Only" not in diagnose({"Model1": LOSS}, made_up.ALL)


def test_nothing_moved_is_nothing_to_say() -> None:
    assert diagnose({}, made_up.ALL) == ""
