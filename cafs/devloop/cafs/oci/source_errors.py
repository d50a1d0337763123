"""What can be wrong with an image at the place that it comes from. No secret is in any message."""

from __future__ import annotations

from devloop.cafs.errors import DevloopError

__all__ = [
    "AccessRefused",
    "ImageCorrupt",
    "ImageUnknown",
    "ImageUnsupported",
    "LayerCorrupt",
    "PlatformMissing",
    "ReferenceInvalid",
    "RegistryBusy",
    "RegistryFailed",
    "RegistryUnreachable",
    "SourceError",
    "SourceUnreadable",
]


class SourceError(DevloopError):
    """An image cannot be had from where it was asked for."""


class ReferenceInvalid(SourceError):
    """The text names no image."""

    hint = 'such as "registry.example/team/train:1.2", "oci:./layout" or "docker-archive:saved.tar"'


class ImageUnknown(SourceError):
    """There is no such image, tag or digest."""

    hint = "check the spelling of name and tag"


class ImageUnsupported(SourceError):
    """It is something that the registry keeps, and nothing that runs here."""


class PlatformMissing(SourceError):
    """The image is there, though not for this kind of machine."""


class ImageCorrupt(SourceError):
    """A manifest, a config or a layer is not what its digest or its format says."""

    hint = "push or copy the image again"


class LayerCorrupt(ImageCorrupt):
    """The bytes of a layer end early, or are not those that its digest names."""

    hint = "try again; if it comes back, the image has to be pushed or copied again"


class SourceUnreadable(SourceError):
    """A layout or an archive cannot be read."""

    hint = "check the path; on a box, it is one of the box's files"


class RegistryUnreachable(SourceError):
    """No answer: an unknown host, a closed port, TLS that fails, a link that was lost."""

    hint = "check the name of the registry and the network"


class AccessRefused(SourceError):
    """The registry wants other credentials, or none would do."""

    hint = "`docker login` or `skopeo login` on the machine that pulls"


class RegistryBusy(SourceError):
    """It said "later" for longer than we wait."""

    hint = "try again in some minutes; many registries allow more to those who log in"


class RegistryFailed(SourceError):
    """An answer that means nothing to us, or that something is wrong over there."""

    hint = "try again; if it comes back, ask who runs the registry"
