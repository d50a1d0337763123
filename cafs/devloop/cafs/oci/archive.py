"""What `docker save` and `podman save` write: a tar with manifest.json, configs and layers.

It has no manifest of the registries' kind. One is made of what there is, always the same for the
same image, so that the image has a digest. What the digest of a plain layer is, its diff_id says;
a compressed one is hashed when the archive is opened.
https://github.com/moby/moby/blob/master/image/spec/v1.2.md
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from .files import open_tar, read_whole
from .manifest import (
    CONFIGS,
    MANIFESTS,
    OpenedImage,
    diff_ids_of,
    open_descriptor,
    parse_json,
)
from .reference import parse_reference
from .source import Descriptor
from .source_errors import ImageCorrupt, ImageUnknown, ReferenceInvalid, SourceUnreadable
from .verified import check_document

if TYPE_CHECKING:
    from .files import FileSet, Slice
    from .local_reference import LocalReference
    from .platform import Platform
    from .verified import Readable

__all__ = ["open_docker_archive"]

_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE_BYTES = 1 << 20


class ArchiveBlobs:
    """A BlobSource: the documents are in memory, the layers members of the archive."""

    def __init__(self, files: FileSet, image: str) -> None:
        self._files = files
        self._documents: dict[str, bytes] = {}
        self._layers: dict[str, str] = {}
        self.image = image
        self.close = files.close

    def document(self, descriptor: Descriptor) -> bytes:
        return self._documents[descriptor.digest]

    def open(self, descriptor: Descriptor) -> Readable:
        return self.member(self._layers[descriptor.digest])

    def member(self, name: str) -> Slice:
        found = self._files.open(name)
        if found is None:
            raise ImageCorrupt(f"{self.image} lacks its layer {name}")
        return found

    def add_document(self, media_type: str, data: bytes) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._documents[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_layer(self, name: str, diff_id: str) -> Descriptor:
        member = self.member(name)
        try:
            descriptor = _describe(member, diff_id)
        finally:
            member.close()
        self._layers[descriptor.digest] = name
        return descriptor


def open_docker_archive(reference: LocalReference, wanted: Platform) -> OpenedImage:
    """Raises SourceError."""
    if not reference.path.exists():
        raise SourceUnreadable(f"there is no {reference.path}")
    files = open_tar(reference.path)
    try:
        entry = _select(_entries(files, reference), reference)
        blobs = ArchiveBlobs(files, str(reference))
        return open_descriptor(blobs, _make_manifest(files, blobs, entry, wanted), wanted)
    except BaseException:
        files.close()
        raise


def _entries(files: FileSet, reference: LocalReference) -> list[dict[str, Any]]:
    data = read_whole(files, "manifest.json")
    if data is None:
        layout = read_whole(files, "oci-layout") is not None
        hint = f'"oci-archive:{reference.path}" perhaps' if layout else "`docker save -o FILE NAME`"
        raise SourceUnreadable(f"{reference.path} is not what docker save writes", hint=hint)
    entries = parse_json(b'{"list":%b}' % data, f"manifest.json of {reference.path}")["list"]
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ImageCorrupt(f"manifest.json of {reference.path} lists no images")
    return entries


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("Config"), str):
        return False
    lists = [value.get("Layers"), value.get("RepoTags") or []]
    return all(isinstance(one, list) and all(isinstance(s, str) for s in one) for one in lists)


def _select(entries: list[dict[str, Any]], reference: LocalReference) -> dict[str, Any]:
    matching = [entry for entry in entries if _matches(entry, reference.wanted)]
    names = sorted({name for entry in entries for name in _names(entry)})
    there = f"there is {', '.join(names)}" if names else "none in it has a name"
    if not matching:
        what = f"no image {reference.wanted}" if reference.wanted else "no image"
        raise ImageUnknown(f"{reference.path} holds {what}: {there}")
    if len(matching) > 1:
        hint = f'name one: "docker-archive:{reference.path}:{names[0]}"' if names else None
        raise ImageUnknown(f"{reference.path} holds several images: {there}", hint=hint)
    return matching[0]


def _names(entry: dict[str, Any]) -> list[str]:
    return [name for name in entry.get("RepoTags") or [] if name.isprintable()]


def _matches(entry: dict[str, Any], wanted: str) -> bool:
    """By a name in any spelling, or by the digest of the config."""
    if not wanted or wanted == f"sha256:{_digits(entry['Config'])}":
        return True
    return _spelled(wanted) in map(_spelled, _names(entry))


def _spelled(name: str) -> str:
    try:
        return str(parse_reference(name))
    except ReferenceInvalid:
        return name


def _digits(config_name: str) -> str:
    """The name of a config is its digest: HEX.json, or blobs/sha256/HEX."""
    return config_name.rpartition("/")[2].removesuffix(".json")


def _make_manifest(
    files: FileSet, blobs: ArchiveBlobs, entry: dict[str, Any], wanted: Platform
) -> Descriptor:
    config = read_whole(files, entry["Config"])
    if config is None:
        raise ImageCorrupt(f"{blobs.image} lacks its config {entry['Config']}")
    if re.fullmatch("[0-9a-f]{64}", digits := _digits(entry["Config"])):
        check_document(config, f"sha256:{digits}", f"config of {blobs.image},")
    diff_ids = diff_ids_of(config, wanted, blobs.image)
    if len(diff_ids) != len(entry["Layers"]):
        counts = f"{len(entry['Layers'])} layers, its config {len(diff_ids)}"
        raise ImageCorrupt(f"{blobs.image} has {counts}")
    pairs = zip(entry["Layers"], diff_ids, strict=True)
    layers = [blobs.add_layer(name, diff_id) for name, diff_id in pairs]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[1],
        "config": _words(blobs.add_document(CONFIGS[1], config)),
        "layers": [_words(layer) for layer in layers],
    }
    return blobs.add_document(MANIFESTS[1], json.dumps(manifest, separators=(",", ":")).encode())


def _words(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size_bytes,
        "digest": descriptor.digest,
    }


def _describe(member: Slice, diff_id: str) -> Descriptor:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    count = member.readinto(buffer)
    start = bytes(buffer[:4])
    suffix = ".gzip" if start.startswith(_GZIP) else ".zstd" if start == _ZSTD else ""
    if not suffix:
        return Descriptor(_LAYER, diff_id, member.size_bytes)
    hasher = hashlib.sha256()
    while count:
        hasher.update(buffer[:count])
        count = member.readinto(buffer)
    return Descriptor(_LAYER + suffix, f"sha256:{hasher.hexdigest()}", member.size_bytes)
