"""OCI layouts: a directory, or a tar of one.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import DirectoryFiles, open_tar, read_whole
from .manifest import OpenedImage, descriptor_of, open_descriptor, parse_json, platform_of
from .platform import best
from .source_errors import ImageCorrupt, ImageUnknown, LayerCorrupt, SourceUnreadable
from .verified import read_document, short

if TYPE_CHECKING:
    from .files import FileSet
    from .local_reference import LocalReference
    from .platform import Platform
    from .source import Descriptor
    from .verified import Readable

__all__ = ["LayoutBlobs", "open_layout"]

_NAME = "org.opencontainers.image.ref.name"


class LayoutBlobs:
    """The blobs of a layout, by their digests."""

    def __init__(self, files: FileSet, image: str) -> None:
        self._files = files
        self.image = image
        self.close = files.close

    def document(self, descriptor: Descriptor) -> bytes:
        return read_document(self.open, descriptor)

    def open(self, descriptor: Descriptor) -> Readable:
        found = self._files.open(f"blobs/{descriptor.digest.replace(':', '/')}")
        if found is None:
            raise ImageCorrupt(f"{self.image} lacks its blob {short(descriptor.digest)}")
        if found.size_bytes != descriptor.size_bytes:
            found.close()
            raise LayerCorrupt(
                f"blob {short(descriptor.digest)} of {self.image} has {found.size_bytes:,} bytes "
                f"instead of {descriptor.size_bytes:,}"
            )
        return found


def open_layout(reference: LocalReference, wanted: Platform) -> OpenedImage:
    """Raises SourceError."""
    files = _open_files(reference)
    try:
        descriptor = _select(_entries(files, reference), reference, wanted)
        return open_descriptor(LayoutBlobs(files, str(reference)), descriptor, wanted)
    except BaseException:
        files.close()
        raise


def _open_files(reference: LocalReference) -> FileSet:
    if reference.path.is_dir():
        return DirectoryFiles(reference.path)
    if not reference.path.exists():
        raise SourceUnreadable(f"there is no {reference.path}")
    return open_tar(reference.path)


def _entries(files: FileSet, reference: LocalReference) -> list[dict[str, Any]]:
    data = read_whole(files, "index.json")
    if data is None or read_whole(files, "oci-layout") is None:
        saved = read_whole(files, "manifest.json") is not None
        hint = f'"docker-archive:{reference.path}" perhaps' if saved else None
        raise SourceUnreadable(f"{reference.path} is no OCI layout", hint=hint)
    entries = parse_json(data, f"index.json of {reference.path}").get("manifests")
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ImageCorrupt(f"index.json of {reference.path} lists no manifests")
    return entries


def _select(
    entries: list[dict[str, Any]], reference: LocalReference, wanted: Platform
) -> Descriptor:
    """The entry that is named. Several of one name are the platforms of one image."""
    matching = [entry for entry in entries if _matches(entry, reference.wanted)]
    names = sorted({_name(entry) for entry in entries} - {""})
    there = f"there is {', '.join(names)}" if names else "none in it has a name"
    if not matching:
        what = f"no image {reference.wanted}" if reference.wanted else "no image"
        raise ImageUnknown(f"{reference.path} holds {what}: {there}")
    if len({_name(entry) for entry in matching}) > 1:
        hint = f'name one: "{reference.transport}:{reference.path}:{names[0]}"'
        raise ImageUnknown(f"{reference.path} holds several images: {there}", hint=hint)
    platforms = [platform_of(entry) for entry in matching]
    chosen = 0 if len(matching) == 1 else best(wanted, platforms, str(reference))
    return descriptor_of(matching[chosen], f"image {reference}")


def _matches(entry: dict[str, Any], wanted: str) -> bool:
    name = _name(entry)
    return not wanted or wanted in (name, entry.get("digest")) or name.endswith(f":{wanted}")


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) and name.isprintable() else ""
