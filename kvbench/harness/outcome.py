"""What a comparison of a test came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    ``unsettled``: the data could not decide it. ``lacking``: it could not be made at all. ``moved``: the metrics of the
    gates that failed.
    """

    text: str = ""
    failed: bool = False
    unsettled: bool = False
    lacking: bool = False
    moved: tuple[str, ...] = ()
