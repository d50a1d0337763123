"""Boxes: one shared by the tests of a worker, and fresh ones for tests that hurt their agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .box import open_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .box import Box


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    with open_box() as opened:
        yield opened


@pytest.fixture
def own_box() -> Iterator[Box]:
    """Its agent is nobody else's."""
    with open_box() as opened:
        yield opened
