"""What the file server of an image has to say to people, as lines for the logs of runs.

Knows the words of `cafs.fuse.events`, and no run.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["line_of"]

SHORT_DIGITS = 12


def line_of(event: str) -> str | None:
    """A line without its end; None for what is no trouble. `event`: one JSON object."""
    told: dict[str, Any] = json.loads(event)
    match told:
        case {"event": "failed", "digest": digest, "file": file, "reason": reason}:
            blob = f"blob {digest[:SHORT_DIGITS]} of the image"
            return f"/{file.lstrip('/')} cannot be read ({blob}): {reason}"
        case {"event": "tier", "tier": tier, "reason": reason, "digest": str(digest)}:
            return f"{tier}: {reason} (blob {digest[:SHORT_DIGITS]} of the image)"
        case {"event": "tier", "tier": tier, "reason": reason}:
            return f"{tier}: {reason}"
        case _:
            return None
