"""Where an image comes from: one interface for registries, layouts and archives.

Owns the words of a reference that say which it is. Knows nothing of what becomes of the layers.

    host:port/name:tag  name@sha256:…  name      a registry; docker.io where no host is named
    oci:PATH[:TAG]                               an OCI layout: a directory, or a tar of one
    oci-archive:FILE[:TAG]                       the same, a file
    docker-archive:FILE[:NAME:TAG]               what `docker save` writes

PATH may be followed by @sha256:… instead of a tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from .local_reference import parse_local
from .platform import host_platform, parse_platform
from .reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .credentials import Credentials

__all__ = [
    "CERTS_DIRS",
    "Descriptor",
    "ImageSource",
    "Layer",
    "RegistryOptions",
    "normalised",
    "open_image",
]

# A registry's folder in one of these, named host:port, may hold *.crt, and a *.cert with its *.key.
CERTS_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class Descriptor(NamedTuple):
    """What a manifest says of some bytes. `digest`: "sha256:…", of the bytes as they are kept."""

    media_type: str
    digest: str
    size_bytes: int


class Layer(NamedTuple):
    """`diff_id`: the digest of the tar inside. `open()` is for any thread, any number of times.

    What it returns gives the raw bytes of `descriptor`, and goes on by itself after a lost
    connection. The read that would give the last byte raises LayerCorrupt instead when the digest
    is wrong, and one that meets an early end does. Other SourceErrors mean that it cannot be had.
    """

    descriptor: Descriptor
    diff_id: str
    open: Callable[[], BinaryIO]


class ImageSource(Protocol):
    """One image of one platform. `manifest` and `config` are verified, bottom layer first."""

    @property
    def manifest_digest(self) -> str: ...
    @property
    def manifest(self) -> bytes: ...
    @property
    def config(self) -> bytes: ...
    @property
    def layers(self) -> Sequence[Layer]: ...

    def close(self) -> None:
        """What `Layer.open` gave is of no use afterwards. Idempotent."""


class RegistryOptions(NamedTuple):
    """How registries are reached.

    `credentials`: instead of those that `docker login` and `skopeo login` have kept.
    `insecure`: registries (host or host:port) that may speak plain HTTP or show any certificate.
    `mirrors`: of a registry, what is asked first, in order: host[:port][/prefix].
    `patience_s`: how long in all we wait for one that says "later" or does not answer.
    """

    credentials: Credentials | None = None
    insecure: Sequence[str] = ()
    mirrors: Mapping[str, Sequence[str]] = {}
    certs_dirs: Sequence[str | Path] = CERTS_DIRS
    patience_s: float = 30.0


DEFAULTS = RegistryOptions()


def normalised(reference: str) -> str:
    """The one spelling of a reference; paths become absolute. Raises ReferenceInvalid."""
    return str(parse_local(reference) or parse_reference(reference))


def open_image(
    reference: str, *, platform: str | None = None, options: RegistryOptions = DEFAULTS
) -> ImageSource:
    """Of this machine's platform unless one is named. Reads manifest and config, and no layer.

    Raises SourceError.
    """
    wanted = parse_platform(platform) if platform else host_platform()
    if (local := parse_local(reference)) is not None:
        if local.transport == "docker-archive":
            from .archive import open_docker_archive

            return open_docker_archive(local, wanted)
        from .layout import open_layout

        return open_layout(local, wanted)
    from .registry import open_registry

    return open_registry(parse_reference(reference), wanted, options)
