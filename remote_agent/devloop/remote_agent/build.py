"""Which build of devloop this is: its version, with its content's name if a client brought it."""

from __future__ import annotations

import sys
from pathlib import Path

from devloop.cafs.version import VERSION

__all__ = ["own_build"]


def own_build() -> str:
    """A client that installs the agent writes the name into the folder; it holds no space."""
    try:
        return (Path(sys.prefix) / "build").read_text().strip() or VERSION
    except OSError:
        return VERSION
