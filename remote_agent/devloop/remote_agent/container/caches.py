"""What is downloaded or compiled once and kept across containers: one folder a user of the box,
and of compiled code one an image.

Owns the caches' names, and the variables that point there. Knows nothing of what they hold.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CACHES", "cache_env", "cache_mounts", "make_caches"]

_TARGET = "/run/devloop/caches"

# The folder of each, and the variable by which its owner finds it.
CACHES = {
    "pip": "PIP_CACHE_DIR",
    "huggingface": "HF_HOME",
    "torch": "TORCH_HOME",
    "triton": "TRITON_CACHE_DIR",
    "inductor": "TORCHINDUCTOR_CACHE_DIR",
}
# What is in these is executed unseen: one image must not be able to give it to another.
_COMPILED = frozenset(("triton", "inductor"))
_KEY_BYTES = 8


def make_caches(folder: Path, image: str) -> None:
    """The user of an image may be anybody: the folder around them is what keeps others out."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for cache, _ in cache_mounts(folder, image):
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o1777)


def cache_mounts(folder: Path | None, image: str) -> Iterator[tuple[Path, str]]:
    """Each cache's folder on the box, and in the container. `image`: what its user calls it, so
    that one that was built anew finds what the last one has compiled."""
    if folder is not None:
        key = hashlib.blake2b(image.encode(), digest_size=_KEY_BYTES).hexdigest()
        for name in CACHES:
            yield folder / name / key if name in _COMPILED else folder / name, f"{_TARGET}/{name}"


def cache_env(folder: Path | None) -> dict[str, str]:
    """Below whatever the image or the user says of these variables."""
    if folder is None:
        return {}
    return {variable: f"{_TARGET}/{name}" for name, variable in CACHES.items()}
