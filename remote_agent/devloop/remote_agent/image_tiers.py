"""What the tiers of one pull know of an image: what its name stands for, its index, its profiles.

Owns what is asked of them, and the taking over: an answer that makes no sense counts as none.
Refuses to know registries, and who waits.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.oci.reference import DIGEST
from devloop.cafs.profile import Profile, ProfileInvalid

from .image_blobs import bring_blobs
from .image_profiles import MOST_OF_AN_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from devloop.cafs.images import Image, ImageStore
    from devloop.cafs.tiers import Tier

__all__ = ["ImageTiers"]


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
        self._why_not: dict[Tier, str] = {}
        self._silent: set[Tier] = set()
        self._giver: Tier | None = None

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
            data = self._asked(tier, f"refs/{digest_of(name.encode()).hex()}.json")
            manifest = _manifest_of(data)
            if manifest is None:
                self._note_senseless(tier, data)
                continue
            index = self._store.index_of_manifest(manifest) or self._index_of(manifest, tier)
            if index is not None:
                self._giver = tier
                return self._store.name(name, manifest, index)
        return None

    def index(self, manifest: str) -> Digest | None:
        """The index alone, from the first tier that has the image. Blobs follow as needed."""
        self._giver = None
        for tier in self._tiers:
            if (index := self._index_of(manifest, tier)) is not None:
                self._giver = tier
                return index
        return None

    def bring(self, index: Digest, tell: Callable[[int, int], None]) -> None:
        """All that the index lacks here. Raises as `bring_blobs` does."""
        from devloop.cafs.tiers import Tiers

        bring_blobs(self._store, index, Tiers(self._tiers), tell)

    @property
    def giver(self) -> str:
        """Who has given the image last; empty: nobody."""
        return self._giver.describe() if self._giver is not None else ""

    def notes(self, name: str) -> list[str]:
        """What the user should know: who did not answer, and whether nobody has the image."""
        if self._giver is not None:
            return [f"store: {tier.describe()}: {why}" for tier, why in self._why_not.items()]
        reasons = [
            f"{tier.describe()}: {self._why_not.get(tier, 'does not have it')}"
            for tier in self._tiers
        ]
        told = "; ".join(reasons)
        return [f"no place in `store` gave {name} ({told}): all of it is fetched"] if told else []

    def _index_of(self, manifest: str, tier: Tier) -> Digest | None:
        from devloop.cafs.index import Index, IndexInvalid

        data = self._asked(tier, f"manifests/{manifest.replace(':', '-')}")
        digest = _digest_in(data)
        encoded = digest and self._asked(tier, f"indexes/{digest.hex()}")
        if not digest or not encoded or digest_of(encoded) != digest:
            self._note_senseless(tier, data)
            return None
        try:
            index = Index.decode(encoded)
        except IndexInvalid:
            self._note_senseless(tier, data)
            return None
        self._store.add_lazy(index, encoded)
        with ThreadPoolExecutor(1) as beside:
            telling = beside.submit(self._tell, tier, digest)
            self._store.ensure_metadata(digest, index)
            telling.result()
        return digest

    def _asked(self, tier: Tier, name: str) -> bytes | None:
        """None also when it does not answer: another one may, and the registry."""
        from devloop.cafs.tiers import TierUnreachable

        if tier in self._silent:
            return None  # each question would take as long
        try:
            return tier.get_named(name)
        except TierUnreachable as error:
            self._silent.add(tier)
            self._why_not[tier] = error.reason
            return None

    def _note_senseless(self, tier: Tier, data: bytes | None) -> None:
        if data is not None:
            self._why_not.setdefault(tier, "what it has of it is damaged")

    def _tell(self, tier: Tier, index: Digest) -> None:
        self._copy_profiles(tier, index)
        self._on_index(index)

    def _copy_profiles(self, tier: Tier, index: Digest) -> None:
        """As far as they are to be had: nothing depends on them."""
        from devloop.cafs.tiers import TierError

        with contextlib.suppress(TierError):
            for name in tier.list_named(f"profiles/{index.hex()}-"):
                self._take_profile(name, tier.get_named(name))

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
