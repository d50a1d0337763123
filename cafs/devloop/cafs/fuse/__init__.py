"""Files of an image that this box may lack, served through FUSE.

`python -m devloop.cafs.fuse` is a process of its own (`request` has what it is told, `events` what
it says): pyfuse3 runs on trio, and a server that is stuck must be one that can be killed. Only that
process imports pyfuse3; what its starter needs is `connection`. Refuses to know about containers.
"""

from __future__ import annotations

from .connection import abort, device_of

__all__ = ["abort", "device_of"]
