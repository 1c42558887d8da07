"""Where to look, from what moved."""

from __future__ import annotations

import pytest

from kvbench.reference.diagnosis import SHARED, diagnose
from tests.support import DESIGN, synthetic

LOSS = ("train_loss", "val_loss", "val_accuracy")


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (synthetic.ALL, SHARED),
        (
            [name for name in synthetic.ALL if name.startswith("lr_")],
            "recipe StepLR: only its configurations",
        ),
        ([name for name in synthetic.ALL if not name.startswith("lr_")], "the recipe constant lr: only"),
        (["lr_Model1", "lr_Model4"], "the recipe StepLR: only"),
        (["Model7", "lr_Model7"], "Model7, the one student that drifted"),
        (["Model5"], "Model5, the one student that drifted"),
        ([n for n in synthetic.ALL if n[-1] in "34567"], "Look first at memory: its students drifted, and no others"),
        ([n for n in synthetic.ALL if n[-1] in "12"], "Look first at simple: its students drifted, and no others"),
        ([n for n in synthetic.ALL if n[-1] in "347"], "GELU"),
        ([n for n in synthetic.ALL if n[-1] in "46"], "frozen memories: its students"),
        (["Model1", "lr_Model3", "Model7"], "what Model1, Model7, lr_Model3 have in common"),
    ],
)
def test_it_names_what_the_moved_ones_share(moved: list[str], words: str) -> None:
    told = diagnose(dict.fromkeys(moved, LOSS), synthetic.ALL, DESIGN)
    assert words in told
    assert told.startswith(f"{len(moved)} of 14 configurations drifted.")


def test_it_tells_validation_from_training() -> None:
    assert "look at validation" in diagnose({"Model1": ("val_loss", "val_accuracy")}, synthetic.ALL, DESIGN)
    assert "how the loss is computed" in diagnose({"Model1": ("train_loss",)}, synthetic.ALL, DESIGN)
    assert "Only" not in diagnose({"Model1": LOSS}, synthetic.ALL, DESIGN)


def test_nothing_moved_is_nothing_to_say() -> None:
    assert diagnose({}, synthetic.ALL, DESIGN) == ""
