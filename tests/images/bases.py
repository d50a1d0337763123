"""Real images for tests: made once by mmdebstrap, and kept between runs outside the tree.

registry.push(debian_base().reference, "debian:bookworm")
"""

from __future__ import annotations

import pytest
from benchmarks import base_images
from benchmarks.sandbox import Skipped

__all__ = ["debian_base"]


def debian_base() -> base_images.BaseImage:
    """Debian with Python, 6,000 entries. Skips the test where it cannot be made."""
    try:
        return base_images.debian_base()
    except Skipped as missing:
        pytest.skip(str(missing))
