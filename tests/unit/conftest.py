"""What all unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvbench.reference import store


@pytest.fixture(scope="session", autouse=True)
def no_shipped_references() -> Iterator[None]:
    """Only references that a test makes: those that ship with kvbench would be found under the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHIPPED", Path("nowhere"))
        yield
