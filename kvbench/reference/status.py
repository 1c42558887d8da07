"""Status: how a fresh number, time or verdict stands to the recorded one."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """What a comparison with a reference comes to; upper case where a reader must not miss it."""

    WITHIN = "within"  # a number or time where the reference lets it be
    DRIFTED = "DRIFTED"  # a number outside
    NO_NUMBER = "NO NUMBER"  # missing or not finite, though every run measures it
    NOT_MEASURED = "not measured"  # by one side, and optional
    NOT_JUDGED = "not judged"  # the reference has no spread to judge by
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    RECORDED = "as recorded"  # a finding all of whose verdicts are the recorded ones
    CHANGED = "changed"  # holds against fails, or a verdict where there was none because the margin drifted
    NOT_CONFIRMED = "not confirmed"  # recorded as holds or fails, and the fresh seeds can't tell
    NOTED = "noted"  # recorded as undecided, now decided, and the margin is where it was
    MISSING = "missing"  # a verdict that is not recorded, or no longer judged

    __str__ = str.__str__

    @property
    def failed(self) -> bool:
        """Whether this makes a run fail; seconds never do."""
        return self in {Status.DRIFTED, Status.NO_NUMBER, Status.CHANGED, Status.MISSING}
