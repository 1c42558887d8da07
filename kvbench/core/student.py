"""Students: rows that say which taps a module reads and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvbench.utils.errors import UserError, describe, need_name

if TYPE_CHECKING:
    from torch import nn

    from kvbench.core.bank import FeatureBank


@dataclass(frozen=True)
class Student:
    """A row of a study's students.

    Args:
        name: what its configurations are called after.
        make: makes the module from the widths D of the taps that it reads, and K. The module takes a list of tap
            features (B, D) each, in float32, and returns logits (B, K) in float32.
        taps: which of the teacher's taps it reads, as indices into them, shallow to deep; -1 is the deepest.
        summary: a few words for tables.
        group: what it is compared as, such as ``simple``; findings name groups.
        tags: what else it has in common with others, in words, such as ``frozen memories``; findings may name them, and
            what drifts is looked for among them.
        make_from: instead of ``make``: makes the module from the training bank, of the taps that it reads.

    Example:
        >>> linear = Student("linear", lambda widths, classes: SumOfHeads([torch.nn.Linear(widths[0], classes)]))
        >>> linear.build([512], 10)([torch.rand(4, 512)]).shape
        torch.Size([4, 10])
    """

    name: str
    make: Callable[[Sequence[int], int], nn.Module] | None = None
    taps: tuple[int, ...] = (-1,)
    summary: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    make_from: Callable[[FeatureBank], nn.Module] | None = None

    def __post_init__(self) -> None:
        need_name(self.name, "A student")
        if self.make and self.make_from:
            raise UserError(f"The student {self.name} has make and make_from: give it one of them.")
        taps: object = self.taps
        if not (isinstance(taps, tuple) and taps and all(type(tap) is int for tap in taps)):
            raise UserError(f"The student {self.name} reads the taps {taps!r}; valid are indices, such as (-2, -1).")
        tags: object = self.tags
        if not isinstance(tags, tuple):
            raise UserError(f"The student {self.name} has the tags {tags!r}; valid is a tuple, such as ('GELU',).")

    def need_taps(self, count: int) -> None:
        """Raise `UserError` where the teacher has fewer taps than it reads."""
        if not all(-count <= tap < count for tap in self.taps):
            raise UserError(
                f"{self.name} reads the taps {', '.join(map(str, self.taps))}, there are {count}: name more with"
                " --kvbench-taps."
            )

    def build(self, widths: Sequence[int], classes: int, bank: FeatureBank | None = None) -> nn.Module:
        """Make the module.

        Args:
            widths: D of each tap that it reads.
            classes: K.
            bank: the training bank with just these taps, for ``make_from``.

        Raises:
            UserError: ``make`` or ``make_from`` fails or returns something else than a module.
        """
        from torch import nn

        from kvbench.utils.oom import out_of_memory

        if self.make is not None:
            call, valid = f"make({list(widths)}, {classes})", "the taps' widths and the number of classes"
        else:
            call, valid = "make_from(bank)", "the training bank"
        made: Any
        try:
            made = self.make(widths, classes) if self.make else self.make_from(bank)  # type: ignore[misc, arg-type]
        except Exception as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise UserError(
                f"The student {self.name} cannot be made: its {call} raises {describe(error)}. Valid is a function of"
                f" {valid}."
            ) from error
        if not isinstance(made, nn.Module):
            raise UserError(
                f"The student {self.name} cannot be made: its {call} returns {type(made).__name__}; valid is a"
                " torch.nn.Module."
            )
        return made
