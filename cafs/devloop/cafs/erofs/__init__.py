"""What an image looks like, without its bytes, as a file system that the kernel mounts.

Knows the index and the format of EROFS; refuses to know what is mounted, and where.
"""

from __future__ import annotations

from .placed import is_whiteout
from .writer import write_metadata
from .xattrs import MetadataUnwritable, blob_path, escaped

__all__ = ["MetadataUnwritable", "blob_path", "escaped", "is_whiteout", "write_metadata"]
