"""The images of one box: their indexes, their blobs, and what they are called.

Owns the folder below. Knows neither registries nor mounts: who brings an image in, gives an index
whose blobs are stored and durable (`add`), or one whose blobs are yet to come (`add_lazy`).

    IMAGES/blobs/ab/cdef…        every blob a whole file, since the kernel serves them (`blobdir`)
    IMAGES/indexes/DIGEST        an index, see `index`
    IMAGES/complete/DIGEST       empty: every blob of that index was stored, and durable
    IMAGES/refs/NAME.json        {"reference", "manifest", "index_digest", "pulled_ns"}; NAME is
                                 the digest of the reference's normalised text
    IMAGES/manifests/NAME        the index made from a manifest; NAME is "sha256-…"
    IMAGES/metadata/DIGEST.erofs what the kernel mounts, made from an index whenever it is missing
    IMAGES/metadata/DIGEST.json  the image's OCI configuration, for starts that read no index
    IMAGES/layers/NAME           what a layer holds, see `oci.layer_record`; NAME is "sha256-…"
    IMAGES/profiles/…            what programs touched at their start, see `profile`

Every file appears by a rename of a temporary one beside it, and is synced before: a name that is
there after a loss of power names something whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from .blobdir import disk_full, free_bytes
from .digest import Digest, digest_of
from .erofs import write_metadata
from .errors import DevloopError
from .index import Index, IndexInvalid
from .wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO, Self

__all__ = ["Collected", "Image", "ImageMissing", "ImageStore"]

_FOLDERS = ("indexes", "complete", "refs", "manifests", "metadata", "layers", "profiles")
_TEMP_PREFIX = ".tmp-"
_GRACE_S = 3600.0
_INDEX = re.compile(r"[0-9a-f]{12,64}")


class ImageMissing(DevloopError):
    """The box has no such image."""

    hint = "`devloop image pull` brings it in, `devloop image ls` shows what is there"


class Image(NamedTuple):
    """A reference, and what it stood for when it was pulled."""

    reference: str  # normalised
    manifest: str  # "sha256:…"
    index_digest: Digest
    pulled_ns: int  # Unix time


class Collected(NamedTuple):
    removed_blobs: int
    removed_bytes: int


class ImageStore:
    """For one process at a time, and many threads."""

    def __init__(self, root: Path) -> None:
        """Makes the folder unless it is there. Raises StoreUnusable."""
        self.root = root
        self.blobs = WholeFiles(root)
        for folder in _FOLDERS:
            (root / folder).mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        self.blobs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ names

    def find(self, reference: str) -> Image | None:
        """`reference` is normalised."""
        return self._read_ref(self._ref_path(reference))

    def of_index(self, text: str) -> list[Image]:
        """Those whose index begins so, in hex: at least 12 digits. The newest first."""
        if not _INDEX.fullmatch(text):
            return []
        return [image for image in self.list() if image.index_digest.hex().startswith(text)]

    def get(self, reference: str) -> Image:
        """Raises ImageMissing."""
        image = self.find(reference)
        if image is None:
            raise ImageMissing(f"no image {reference} on this box")
        return image

    def list(self) -> list[Image]:
        """The newest first."""
        paths = (self.root / "refs").glob("*.json")
        images = [image for image in map(self._read_ref, paths) if image is not None]
        return sorted(images, key=lambda image: -image.pulled_ns)

    def name(self, reference: str, manifest: str, index: Digest) -> Image:
        """From now on `reference` stands for that index, which must have been added."""
        image = Image(reference, manifest, index, time.time_ns())
        fields = image._asdict() | {"index_digest": index.hex()}
        self._write(self._ref_path(reference), json.dumps(fields).encode())
        self._write(self._manifest_path(manifest), index.hex().encode())
        return image

    def unname(self, reference: str) -> None:
        self._ref_path(reference).unlink(missing_ok=True)

    def index_of_manifest(self, manifest: str) -> Digest | None:
        """The index that was made from that manifest, if it is (still) here."""
        with contextlib.suppress(OSError, ValueError):
            digest = Digest.fromhex(self._manifest_path(manifest).read_text())
            return digest if self.index_path(digest).exists() else None
        return None

    def put_profile(self, name: str, data: bytes, *, most: int) -> None:
        """`name`: see `profile`. Of one image the `most` newest are kept."""
        self._write(self.root / "profiles" / name, data)
        same = (self.root / "profiles").glob(f"{name.partition('-')[0]}-*")
        oldest = sorted(same, key=lambda path: path.stat().st_mtime_ns)[:-most]
        for path in oldest:
            path.unlink(missing_ok=True)

    def _read_ref(self, path: Path) -> Image | None:
        try:
            fields = json.loads(path.read_bytes())
            index = Digest.fromhex(fields["index_digest"])
            image = Image(fields["reference"], fields["manifest"], index, int(fields["pulled_ns"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return image if self.index_path(index).exists() else None

    def _ref_path(self, reference: str) -> Path:
        return self.root / "refs" / f"{digest_of(reference.encode()).hex()}.json"

    def _manifest_path(self, manifest: str) -> Path:
        return self.root / "manifests" / manifest.replace(":", "-")

    # ------------------------------------------------------------------ indexes

    def add(self, index: Index) -> Digest:
        """An index whose blobs are all stored and durable."""
        digest = self.add_lazy(index)
        self.mark_complete(digest)
        return digest

    def add_lazy(self, index: Index, data: bytes | None = None) -> Digest:
        """An index whose blobs may be missing here: they are fetched when they are touched.

        `data`: the index encoded, where the caller has it.
        """
        data = index.encode() if data is None else data
        digest = digest_of(data)
        if not self.index_path(digest).exists():
            self.mark_incomplete(digest)  # a server that outlived the last one may have marked it
            self._write(self.index_path(digest), data)
        if not self._config_path(digest).exists():
            self._write(self._config_path(digest), index.config)
        return digest

    def index(self, digest: Digest) -> Index:
        """Raises ImageMissing, and IndexInvalid when it is not what its name says."""
        try:
            data = self.index_path(digest).read_bytes()
        except FileNotFoundError:
            raise _no_index(digest) from None
        if digest_of(data) != digest:
            raise IndexInvalid(
                f"the image index {digest.short} is damaged", hint="`devloop image pull` heals it"
            )
        return Index.decode(data)

    def index_path(self, digest: Digest) -> Path:
        return self.root / "indexes" / digest.hex()

    def metadata_path(self, digest: Digest) -> Path:
        return self.root / "metadata" / f"{digest.hex()}.erofs"

    def ensure_metadata(self, digest: Digest, index: Index | None = None) -> bool:
        """What a start needs of the index. False when it was there already."""
        if self.metadata_path(digest).exists() and self._config_path(digest).exists():
            return False
        decoded = self.index(digest) if index is None else index
        if not self._config_path(digest).exists():
            self._write(self._config_path(digest), decoded.config)
        self._write(self.metadata_path(digest), lambda file: write_metadata(decoded, file))
        return True

    def config(self, digest: Digest) -> bytes:
        """The image's OCI configuration, JSON.

        Raises ImageMissing.
        """
        try:
            return self._config_path(digest).read_bytes()
        except FileNotFoundError:
            raise _no_index(digest) from None

    def _config_path(self, digest: Digest) -> Path:
        return self.root / "metadata" / f"{digest.hex()}.json"

    def is_complete(self, digest: Digest) -> bool:
        """Is every blob here? Looks at a mark, not at the blobs."""
        return self._mark(digest).exists()

    def mark_complete(self, digest: Digest) -> None:
        self._write(self._mark(digest), b"")

    def mark_incomplete(self, digest: Digest) -> None:
        self._mark(digest).unlink(missing_ok=True)

    def missing(self, index: Index) -> dict[Digest, int]:
        """The blobs of it that are not here, with their sizes."""
        return {d: size for d, size in index.blobs().items() if not self.blobs.has(d)}

    def _mark(self, digest: Digest) -> Path:
        return self.root / "complete" / digest.hex()

    # ------------------------------------------------------------------ layers

    def layer(self, diff_id: str) -> bytes | None:
        """The record of a layer whose blobs were all stored, if it was kept."""
        with contextlib.suppress(OSError):
            return self._layer_path(diff_id).read_bytes()
        return None

    def put_layer(self, diff_id: str, record: bytes) -> None:
        """Of a layer whose blobs are all stored and durable."""
        self._write(self._layer_path(diff_id), record)

    def _layer_path(self, diff_id: str) -> Path:
        return self.root / "layers" / diff_id.replace(":", "-")

    # ------------------------------------------------------------------ upkeep

    def collect(self, used: Iterable[Digest] = (), *, grace_s: float = _GRACE_S) -> Collected:
        """Drops what no reference and no index in `used` names. No image may be on its way in.

        The layers of images that stay are kept whole: what an upper one hides is what the next
        image on the same base needs. `grace_s` protects what was stored lately.
        """
        live = {image.index_digest for image in self.list()} | set(used)
        needed: set[Digest] = set()
        layers: set[str] = set()
        for digest in live:
            with contextlib.suppress(IndexInvalid, ImageMissing):
                index = self.index(digest)
                needed.update(index.blobs())
                layers.update(index.layers)
        self._drop_indexes(live)
        needed.update(self._drop_layers(layers))
        return self._drop_blobs(needed, time.time_ns() - int(grace_s * 1e9))

    def _drop_indexes(self, live: set[Digest]) -> None:
        """The mark goes first: no index may look complete while its blobs go."""
        for folder in ("complete", "indexes", "metadata"):
            for path in (self.root / folder).iterdir():
                name = path.name.partition(".")[0]
                if name and not _names_one_of(live, name):
                    path.unlink(missing_ok=True)
        for path in (self.root / "manifests").iterdir():
            with contextlib.suppress(OSError):
                if not _names_one_of(live, path.read_text()):
                    path.unlink()
        for path in (self.root / "profiles").iterdir():
            if not _names_one_of(live, path.name.partition("-")[0]):
                path.unlink(missing_ok=True)

    def _drop_layers(self, live: set[str]) -> set[Digest]:
        """All but `live` ones, and damaged records. Returns the blobs of those that stay."""
        from .oci.layer_record import LayerRecordInvalid, blobs_of, decode_layer

        kept = {self._layer_path(diff_id).name for diff_id in live}
        needed: set[Digest] = set()
        for path in (self.root / "layers").iterdir():
            try:
                if path.name not in kept:
                    path.unlink()
                else:
                    needed.update(blobs_of(decode_layer(path.read_bytes())))
            except LayerRecordInvalid:
                path.unlink()
        return needed

    def _drop_blobs(self, needed: set[Digest], newest_ns: int) -> Collected:
        removed = removed_bytes = 0
        for digest in self.blobs:
            if digest in needed:
                continue
            with contextlib.suppress(DevloopError):
                found = self.blobs.look_at(digest)
                if found.put_ns <= newest_ns:
                    self.blobs.delete(digest)
                    removed, removed_bytes = removed + 1, removed_bytes + found.size_bytes
        self.blobs.remove_temporaries(_GRACE_S)
        return Collected(removed, removed_bytes)

    def verify(self) -> Iterator[str]:
        """Hashes everything; damaged blobs are removed, and their images are incomplete then."""
        problems = [str(problem) for problem in self.blobs.verify()]
        yield from problems
        for path in (self.root / "indexes").iterdir():
            with contextlib.suppress(ValueError):
                yield from self._verify_index(Digest.fromhex(path.name))

    def _verify_index(self, digest: Digest) -> Iterator[str]:
        try:
            missing = self.missing(self.index(digest))
        except IndexInvalid as error:
            self.index_path(digest).unlink(missing_ok=True)
            yield f"{self.index_path(digest)}: {error}"
            return
        if missing and self.is_complete(digest):
            self.mark_incomplete(digest)
            yield f"image {digest.short}: {len(missing):,} blobs are missing"

    def disk_bytes(self) -> int:
        """What the blobs take, as far as their sizes tell."""
        return sum(self.blobs.look_at(digest).size_bytes for digest in self.blobs)

    def _write(self, path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
        """Raises StoreFull."""
        temp = path.with_name(f"{_TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with temp.open("xb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            temp.unlink(missing_ok=True)
            need_bytes = 0 if callable(data) else len(data)
            raise disk_full(error, self.root, need_bytes) or error from error

    def free_bytes(self) -> int:
        return free_bytes(self.root)


def _no_index(digest: Digest) -> ImageMissing:
    return ImageMissing(f"no image index {digest.short} on this box")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _names_one_of(live: set[Digest], text: str) -> bool:
    try:
        return Digest.fromhex(text) in live
    except ValueError:
        return False
