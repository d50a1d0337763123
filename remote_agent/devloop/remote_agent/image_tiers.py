"""What the tiers of one pull know of an image: what its name stands for, its index, its profiles.

Owns what is asked of them, and the taking over. Refuses to know registries, and who waits.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from devloop.cafs.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from devloop.cafs.digest import Digest
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
            data = _asked(tier, f"refs/{digest_of(name.encode()).hex()}.json")
            if data is None:
                continue
            manifest = json.loads(data)["manifest"]
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
        from devloop.cafs.index import Index

        data = _asked(tier, f"manifests/{manifest.replace(':', '-')}")
        index_data = data and _asked(tier, f"indexes/{data.decode()}")
        if not data or not index_data or digest_of(index_data).hex() != data.decode():
            return None
        index = Index.decode(index_data)
        digest = self._store.add_lazy(index, index_data)
        with ThreadPoolExecutor(1) as beside:
            telling = beside.submit(self._tell, tier, digest)
            self._store.ensure_metadata(digest, index)
            telling.result()
        return digest

    def _tell(self, tier: Tier, index: Digest) -> None:
        self._copy_profiles(tier, index)
        self._on_index(index)

    def _copy_profiles(self, tier: Tier, index: Digest) -> None:
        for name in tier.list_named(f"profiles/{index.hex()}-"):
            data, path = tier.get_named(name), self._store.root / name
            if data is not None and not path.exists():
                path.write_bytes(data)


def _asked(tier: Tier, name: str) -> bytes | None:
    """None also when it does not answer: another one may, and the registry."""
    from devloop.cafs.tiers import TierUnreachable

    try:
        return tier.get_named(name)
    except TierUnreachable as error:
        logger.warning("%s", error)
        return None
