"""What is fetched for boxes is fetched once for all tests of a worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.boxes import share_wheels


@pytest.fixture
def wheels(tmp_path_factory: pytest.TempPathFactory, own_directories: None) -> None:
    folder = tmp_path_factory.getbasetemp() / "wheels"
    share_wheels(folder, Path(os.environ["DEVLOOP_CACHE_DIR"]))
