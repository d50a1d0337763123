"""Images and containers as plain values. Knows no call of the protocol (`image_calls.py` does)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from devloop.cafs.ulimits import Ulimit

__all__ = [
    "Collected",
    "Container",
    "Image",
    "ImageDetails",
    "ImageProfile",
    "ImageSource",
    "Mount",
    "Pushed",
]


class Mount(NamedTuple):
    """A folder or file of the box that a container sees."""

    source: bytes  # absolute, on the box
    target: bytes  # absolute, in the container
    read_only: bool = False


class ImageSource(NamedTuple):
    """Which image, and where it may come from."""

    reference: str
    store: tuple[str, ...] = ()  # tiers, nearest first: "file:///…", "https://…", "ssh://…"
    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()


class Container(NamedTuple):
    """Where runs live. Runs of one workspace whose containers are equal share one."""

    source: ImageSource
    index_digest: bytes = b""  # digest of the image's index, once the agent has said it
    mounts: tuple[Mount, ...] = ()
    isolated_network: bool = False
    shm_bytes: int = 0  # 0: half of the box's memory
    memory_bytes: int = 0  # 0: no limit
    cpus: float = 0.0  # 0: no limit
    keep: str = ""  # a name for the writable layer; empty: it is thrown away
    caches: bool = True
    user: str = ""  # instead of the image's own
    ulimits: tuple[Ulimit, ...] = ()


class Image(NamedTuple):
    reference: str  # normalised
    manifest: str  # "sha256:…"
    index_digest: bytes  # of its index
    pulled_ns: int  # Unix time
    is_complete: bool  # every blob is on the box


class ImageProfile(NamedTuple):
    """What the first start of a command touched."""

    program: str
    arguments: int  # how many it had, up to 31
    files: int
    size_bytes: int


class ImageDetails(NamedTuple):
    image: Image
    config: bytes  # the OCI image configuration, JSON
    layers: tuple[str, ...]  # DiffIDs
    entries: int
    files: int
    size_bytes: int  # of all contents, each blob once
    local_bytes: int  # of these, on the box
    shared_bytes: int  # of these, in other images of the box too
    profiles: tuple[ImageProfile, ...]


class Collected(NamedTuple):
    removed_blobs: int
    freed_bytes: int
    is_held: bool = False  # a container needs the image that was removed: its files stay


class Pushed(NamedTuple):
    """How far a push is."""

    done_bytes: int
    total_bytes: int
    sent_blobs: int  # that were not there before
