"""What the tiers of one pull know of an image: what its name stands for, its index, its profiles.

Owns what is asked of them, and the taking over: an answer that makes no sense counts as none.
Refuses to know registries, and who waits.
"""

from __future__ import annotations

import contextlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.oci.reference import DIGEST
from devloop.cafs.profile import Profile, ProfileInvalid

from .image_profiles import MOST_OF_AN_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from devloop.cafs.images import Image, ImageStore
    from devloop.cafs.tiers import Tier

__all__ = ["ImageTiers"]

logger = logging.getLogger(__name__)


class ImageTiers:
    """Nearest first. For one thread at a time."""

    def __init__(
        self, store: ImageStore, urls: Sequence[str], on_index: Callable[[Digest], object]
    ) -> None:
        """`on_index` is told in a thread, while the rest goes on, that an index is here, with its
        profiles. Raises TierInvalid."""
        from devloop.cafs.tiers import open_tier

        self._store = store
        self._on_index = on_index
        self._tiers = [open_tier(url) for url in urls]

    def __len__(self) -> int:
        return len(self._tiers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tier in self._tiers:
            tier.close()

    def image(self, name: str) -> Image | None:
        """What a tier says that the name stands for, once its index is here."""
        for tier in self._tiers:
            manifest = _manifest_of(_asked(tier, f"refs/{digest_of(name.encode()).hex()}.json"))
            if manifest is None:
                continue
            index = self._store.index_of_manifest(manifest) or self._index_of(manifest, tier)
            if index is not None:
                return self._store.name(name, manifest, index)
        return None

    def index(self, manifest: str) -> Digest | None:
        """The index alone, from the first tier that has the image. Blobs follow as needed."""
        for tier in self._tiers:
            if (index := self._index_of(manifest, tier)) is not None:
                return index
        return None

    def _index_of(self, manifest: str, tier: Tier) -> Digest | None:
        from devloop.cafs.index import Index, IndexInvalid

        digest = _digest_in(_asked(tier, f"manifests/{manifest.replace(':', '-')}"))
        data = digest and _asked(tier, f"indexes/{digest.hex()}")
        if not digest or not data or digest_of(data) != digest:
            return None
        try:
            index = Index.decode(data)
        except IndexInvalid as error:
            logger.warning("%s: index %s: %s", tier.describe(), digest.short, error)
            return None
        self._store.add_lazy(index, data)
        with ThreadPoolExecutor(1) as beside:
            telling = beside.submit(self._tell, tier, digest)
            self._store.ensure_metadata(digest, index)
            telling.result()
        return digest

    def _tell(self, tier: Tier, index: Digest) -> None:
        self._copy_profiles(tier, index)
        self._on_index(index)

    def _copy_profiles(self, tier: Tier, index: Digest) -> None:
        """As far as they are to be had: nothing depends on them."""
        from devloop.cafs.tiers import TierError

        try:
            for name in tier.list_named(f"profiles/{index.hex()}-"):
                self._take_profile(name, tier.get_named(name))
        except TierError as error:
            logger.warning("%s", error)

    def _take_profile(self, path: str, data: bytes | None) -> None:
        """Unless it is none, or one is here already."""
        if data is None or (self._store.root / path).exists():
            return
        with contextlib.suppress(ProfileInvalid):
            name = Profile.decode(data).name
            if path == f"profiles/{name}":
                self._store.put_profile(name, data, most=MOST_OF_AN_IMAGE)


def _manifest_of(data: bytes | None) -> str | None:
    """What a tier's file says that a reference stands for, if that is a manifest."""
    try:
        fields = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    found = fields.get("manifest") if isinstance(fields, dict) else None
    return found if isinstance(found, str) and DIGEST.fullmatch(found) else None


def _digest_in(data: bytes | None) -> Digest | None:
    try:
        return Digest.fromhex((data or b"").decode())
    except ValueError:
        return None


def _asked(tier: Tier, name: str) -> bytes | None:
    """None also when it does not answer: another one may, and the registry."""
    from devloop.cafs.tiers import TierUnreachable

    try:
        return tier.get_named(name)
    except TierUnreachable as error:
        logger.warning("%s", error)
        return None
