"""Images in registries: a manifest by tag or digest, blobs that resume, mirrors first.

Owns which of several registries is asked, and what a lost connection costs: the bytes that were
under way. How one is spoken to is `registry_client`.
"""

from __future__ import annotations

import hashlib
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from .credentials import Found, find_credentials
from .manifest import INDEXES, MANIFESTS, OpenedImage, open_descriptor
from .reference import DOCKER_HUB
from .registry_client import HUB_ENDPOINT, Place, RegistryClient
from .registry_http import Http, LinkLost, NotReached, Patience, Response
from .source import Descriptor
from .source_errors import ImageUnsupported, RegistryBusy, RegistryUnreachable, SourceError
from .verified import MAX_DOCUMENT_BYTES, Readable, read_document, short

if TYPE_CHECKING:
    from collections.abc import Callable

    from .platform import Platform
    from .reference import Reference
    from .source import RegistryOptions

__all__ = ["open_registry"]

T = TypeVar("T")

# So much has to arrive before a link that is lost again is worth all patience again.
_PROGRESS_BYTES = 1 << 20


def open_registry(reference: Reference, wanted: Platform, options: RegistryOptions) -> OpenedImage:
    """Raises SourceError."""
    http = Http(options)
    try:
        blobs = RegistryBlobs(reference, _Mirrored(http, reference, options), http)
        return open_descriptor(blobs, blobs.first(), wanted)
    except BaseException:
        http.close()
        raise


class RegistryBlobs:
    """A BlobSource."""

    def __init__(self, reference: Reference, registries: _Mirrored, http: Http) -> None:
        self.image = str(reference)
        self._reference = reference
        self._registries = registries
        self._http = http
        self._known: dict[str, bytes] = {}
        self.close = http.close

    def first(self) -> Descriptor:
        """Of what the reference names. A tag's digest is that of what the registry sends for it."""
        wanted = self._reference.wanted
        data, media_type = self._registries.first_of(lambda one: one.manifest(wanted))
        digest = self._reference.digest or f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._known[digest] = data
        return Descriptor(media_type, digest, len(data))

    def document(self, descriptor: Descriptor) -> bytes:
        if (known := self._known.pop(descriptor.digest, None)) is not None:
            return known
        if descriptor.media_type not in (*INDEXES, *MANIFESTS):
            return read_document(self.open, descriptor)
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
            what = f"manifest {short(descriptor.digest)} of {self.image}"
            raise ImageUnsupported(f"{what} has {descriptor.size_bytes:,} bytes")
        return self._registries.first_of(lambda one: one.manifest(descriptor.digest))[0]

    def open(self, descriptor: Descriptor) -> Readable:
        return _Resuming(self, descriptor)

    def blob(self, digest: str, position: int) -> Response:
        return self._registries.first_of(lambda one: one.blob(digest, position))

    def patience(self) -> Patience:
        return self._http.patience()


class _Resuming:
    """A blob from where it was lost. The connection is made at the first read."""

    def __init__(self, blobs: RegistryBlobs, descriptor: Descriptor) -> None:
        self._blobs = blobs
        self._descriptor = descriptor
        self._patience = blobs.patience()
        self._position = 0
        self._lost_at = 0
        self._body: Response | None = None

    def readinto(self, buffer: memoryview) -> int:
        while True:
            try:
                if self._body is None:
                    self._body = self._blobs.blob(self._descriptor.digest, self._position)
                count = self._body.readinto(buffer)
            except (LinkLost, NotReached) as error:
                self._wait(error)
            except RegistryUnreachable as error:  # all patience is spent
                raise self._told(error) from error
            else:
                self._position += count
                return count

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        self._body = None

    def _wait(self, error: RegistryUnreachable) -> None:
        self.close()
        if self._position - self._lost_at >= _PROGRESS_BYTES:
            self._patience = self._blobs.patience()
        self._lost_at = self._position
        self._patience.wait(self._told(error))

    def _told(self, error: RegistryUnreachable) -> RegistryUnreachable:
        """With how far it had come."""
        message = (
            f"{error}, after {self._position:,} of {self._descriptor.size_bytes:,} bytes "
            f"of {short(self._descriptor.digest)} of {self._blobs.image}"
        )
        return RegistryUnreachable(message, hint=error.hint)


class _Mirrored:
    """The mirrors in their order, and the registry itself last. For any thread."""

    def __init__(self, http: Http, reference: Reference, options: RegistryOptions) -> None:
        mirrors = options.mirrors.get(reference.registry, ())
        places = [_place_of_mirror(mirror, reference.repository) for mirror in mirrors]
        self._clients = [RegistryClient(http, place, _login(place)) for place in places]
        self._clients.append(_origin(http, reference, options))
        self._lock = Lock()

    def first_of(self, ask: Callable[[RegistryClient], T]) -> T:
        """The first that has it. Raises what the registry itself says."""
        with self._lock:
            *mirrors, origin = self._clients
        for mirror in mirrors:
            try:
                return ask(mirror)
            except (RegistryUnreachable, RegistryBusy):
                self._drop(mirror)
            except SourceError:
                pass  # it may have the next thing
        return ask(origin)

    def _drop(self, mirror: RegistryClient) -> None:
        """For this image it is asked no more: each try would cost a timeout."""
        with self._lock:
            self._clients = [one for one in self._clients if one is not mirror]


def _origin(http: Http, reference: Reference, options: RegistryOptions) -> RegistryClient:
    registry = reference.registry
    host = HUB_ENDPOINT if registry == DOCKER_HUB else registry
    place = Place(registry, host, reference.repository)
    found = Found(options.credentials) if options.credentials else _login(place)
    return RegistryClient(http, place, found)


def _login(place: Place) -> Found:
    return find_credentials(place.registry, place.repository)


def _place_of_mirror(mirror: str, repository: str) -> Place:
    """`mirror`: host[:port][/prefix], with or without the https:// that docker's settings want."""
    host, _, prefix = (mirror.partition("://")[2] or mirror).strip("/").partition("/")
    return Place(host, host, f"{prefix}/{repository}" if prefix else repository)
