"""Where blobs come from that this box lacks, and where images are pushed to.

Owns reaching other stores and believing nothing that they say. Refuses to know what an image is
made of, and where fetched blobs are kept: `landing` stores them.
"""

from __future__ import annotations

from .address import open_tier
from .chain import BlobUnavailable, Fetched, Note, Tiers
from .tier import Tier, TierError, TierInvalid, TierReadOnly, TierUnreachable

__all__ = [
    "BlobUnavailable",
    "Fetched",
    "Note",
    "Tier",
    "TierError",
    "TierInvalid",
    "TierReadOnly",
    "TierUnreachable",
    "Tiers",
    "open_tier",
]
