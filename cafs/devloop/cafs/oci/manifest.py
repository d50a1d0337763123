"""From the first document of an image to its layers: index, manifest, config, each verified.

Owns what the documents may say, and which are refused. Where they come from is a `BlobSource`.
OCI image index and manifest v1, Docker manifest list and manifest v2, schema 2:
https://github.com/opencontainers/image-spec/blob/main/manifest.md
https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .platform import Platform, best
from .reference import DIGEST
from .source import Descriptor, Layer
from .source_errors import ImageCorrupt, ImageUnsupported, PlatformMissing
from .verified import Readable, check_document, short, verified_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

__all__ = [
    "ACCEPTED",
    "CONFIGS",
    "INDEXES",
    "MANIFESTS",
    "BlobSource",
    "OpenedImage",
    "descriptor_of",
    "open_descriptor",
    "parse_json",
    "platform_of",
]

MAX_LAYERS = 4096
MAX_INDEX_DEPTH = 4

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
INDEXES = (f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json")
MANIFESTS = (f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json")
ACCEPTED = (*INDEXES, *MANIFESTS)
CONFIGS = (f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json")
_LAYERS = (f"{_OCI}layer.v1.tar", f"{_OCI}layer.nondistributable.v1.tar", f"{_DOCKER}image.rootfs.")
_OLD = f"{_DOCKER}distribution.manifest.v1+"


class BlobSource(Protocol):
    """Bytes by descriptor, unverified. Its methods raise SourceError."""

    @property
    def image(self) -> str:
        """The image's name, for messages."""

    def document(self, descriptor: Descriptor) -> bytes:
        """An index, a manifest or a config, whole."""

    def open(self, descriptor: Descriptor) -> Readable: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An ImageSource."""

    manifest_digest: str
    manifest: bytes
    config: bytes
    layers: Sequence[Layer]
    close: Callable[[], None]


def open_descriptor(
    blobs: BlobSource, descriptor: Descriptor, wanted: Platform, depth: int = 0
) -> OpenedImage:
    """What `descriptor` names, through any index. Raises SourceError."""
    data = blobs.document(descriptor)
    check_document(data, descriptor.digest, f"manifest of {blobs.image},")
    manifest = parse_json(data, f"the manifest of {blobs.image}")
    if _is_index(manifest, descriptor.media_type, blobs.image):
        if depth == MAX_INDEX_DEPTH:
            raise ImageUnsupported(f"{blobs.image} is an index in an index, {depth} times over")
        return open_descriptor(blobs, _choose(manifest, wanted, blobs.image), wanted, depth + 1)
    config_at = descriptor_of(manifest.get("config"), f"config of {blobs.image}")
    if config_at.media_type not in CONFIGS:
        raise ImageUnsupported(
            f"{blobs.image} is no container image: its config is {config_at.media_type}"
        )
    config = blobs.document(config_at)
    check_document(config, config_at.digest, f"config of {blobs.image},")
    diff_ids = diff_ids_of(config, wanted, blobs.image)
    layers = _layers(blobs, manifest, diff_ids)
    return OpenedImage(descriptor.digest, data, config, layers, blobs.close)


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Raises ImageCorrupt for what is no JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ImageCorrupt(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise ImageCorrupt(f"{what} is no JSON object")
    return value


def descriptor_of(value: object, what: str) -> Descriptor:
    """Raises ImageCorrupt."""
    if not isinstance(value, dict):
        raise ImageCorrupt(f"{what} has no descriptor")
    media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ImageCorrupt(f"the descriptor of {what} has no digest that is known here")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ImageCorrupt(f"the descriptor of {what} names no size")
    if not isinstance(media_type, str) or not media_type.isprintable():
        raise ImageCorrupt(f"the descriptor of {what} names no media type")
    return Descriptor(media_type, digest, size)


def platform_of(entry: object) -> Platform | None:
    """Of one entry of an index; None when it does not say."""
    said = entry.get("platform") if isinstance(entry, dict) else None
    if not isinstance(said, dict):
        return None
    words = [said.get(key, "") for key in ("os", "architecture", "variant")]
    if not all(isinstance(word, str) and word.isprintable() for word in words):
        return None
    return Platform(*words) if words[0] and words[1] else None


def diff_ids_of(config: bytes, wanted: Platform, image: str) -> list[str]:
    """Raises ImageCorrupt, and PlatformMissing for an image that is made for other machines."""
    value = parse_json(config, f"the config of {image}")
    made_for = platform_of({"platform": value})
    if made_for is not None and not wanted.runs(made_for):
        hint = "build the image for this platform, or run it on another machine"
        raise PlatformMissing(f"{image} is for {made_for}, and not for {wanted}", hint=hint)
    rootfs = value.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list):
        raise ImageCorrupt(f"the config of {image} names no layers (rootfs.diff_ids)")
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in found):
        raise ImageCorrupt(f"the config of {image} has a diff_id that is no digest")
    return found


def _is_index(manifest: dict[str, Any], media_type: str, image: str) -> bool:
    """By its mediaType, else by what names it, else by what is in it; never both at once."""
    said = manifest.get("mediaType") or media_type
    if str(said).startswith(_OLD) or "fsLayers" in manifest:
        raise ImageUnsupported(
            f"{image} has a manifest of the old kind (schema 1), which cannot be verified",
            hint="push it again with any docker since 2016, or with `skopeo copy --format v2s2`",
        )
    index, layers = "manifests" in manifest, "layers" in manifest
    if index == layers or (said in ACCEPTED and (said in INDEXES) != index):
        raise ImageUnsupported(f"{image} is neither an image nor an index of images, but {said}")
    return index


def _choose(index: dict[str, Any], wanted: Platform, image: str) -> Descriptor:
    entries = index["manifests"]
    if not isinstance(entries, list) or not entries:
        raise ImageCorrupt(f"the index of {image} names no manifest")
    runnable = [entry for entry in entries if not _is_attestation(entry)]
    platforms = [platform_of(entry) for entry in runnable]
    return descriptor_of(runnable[best(wanted, platforms, image)], f"a manifest of {image}")


def _is_attestation(entry: object) -> bool:
    """What BuildKit puts beside an image: no image."""
    platform = platform_of(entry)
    return platform is not None and platform.os == "unknown"


def _layers(blobs: BlobSource, manifest: dict[str, Any], diff_ids: list[str]) -> list[Layer]:
    found = manifest["layers"]
    if not isinstance(found, list) or len(found) != len(diff_ids):
        count = len(found) if isinstance(found, list) else 0
        raise ImageCorrupt(
            f"the manifest of {blobs.image} has {count} layers, its config {len(diff_ids)}"
        )
    if len(found) > MAX_LAYERS:
        raise ImageUnsupported(f"{blobs.image} has {len(found):,} layers, more than {MAX_LAYERS:,}")
    pairs = zip(found, diff_ids, strict=True)
    return [layer_of(blobs, _layer_at(one, blobs.image), diff_id) for one, diff_id in pairs]


def layer_of(blobs: BlobSource, descriptor: Descriptor, diff_id: str) -> Layer:
    def open_layer() -> BinaryIO:
        return verified_stream(blobs.open(descriptor), descriptor, blobs.image)

    return Layer(descriptor, diff_id, open_layer)


def _layer_at(value: object, image: str) -> Descriptor:
    descriptor = descriptor_of(value, f"a layer of {image}")
    kind = descriptor.media_type
    if not kind.startswith(_LAYERS) or kind.endswith("+encrypted"):
        raise ImageUnsupported(f"layer {short(descriptor.digest)} of {image} is {kind}")
    return descriptor
