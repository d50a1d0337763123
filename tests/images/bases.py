"""Real images for tests: made once by mmdebstrap, and kept between runs outside the tree.

registry.push(debian_base().reference, "debian:bookworm")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks import base_images
from benchmarks.sandbox import Skipped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["debian_base", "torch_image"]


def debian_base() -> base_images.BaseImage:
    """Debian with Python, 6,000 entries. Skips the test where it cannot be made."""
    return _made(base_images.debian_base)


def torch_image() -> base_images.BaseImage:
    """The same with torch, 32,000 entries and 1.2 GB."""
    return _made(base_images.torch_image)


def _made(make: Callable[[], base_images.BaseImage]) -> base_images.BaseImage:
    try:
        return make()
    except Skipped as missing:
        pytest.skip(str(missing))
