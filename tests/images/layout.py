"""Writes OCI layouts: images as tests want them, from plain values or from a directory.

    base = layer({"etc/hosts": b"…", "bin/sh": Symlink("dash"), "tmp": Dir(0o1777)})
    write_layout(folder, [Image([base, layer_of(directory)], tag="latest", compress="zstd")])

Digests, sizes and diff_ids are right; what is wrong on purpose, a test spoils afterwards.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Device",
    "Dir",
    "Fifo",
    "File",
    "Hardlink",
    "Image",
    "Symlink",
    "blob_path",
    "config_of",
    "layer",
    "layer_of",
    "put_blob",
    "write_docker_archive",
    "write_layout",
]

MTIME = 1_600_000_000
Compression = Literal["gzip", "zstd", "plain"]


class File(NamedTuple):
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    xattrs: Mapping[str, bytes] = {}


class Dir(NamedTuple):
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    xattrs: Mapping[str, bytes] = {}


class Symlink(NamedTuple):
    target: str


class Hardlink(NamedTuple):
    """`target`: the path of a file in the same layer or one below."""

    target: str


class Device(NamedTuple):
    kind: Literal["chr", "blk"]
    major: int
    minor: int
    mode: int = 0o666


class Fifo(NamedTuple):
    mode: int = 0o644


Entry = bytes | File | Dir | Symlink | Hardlink | Device | Fifo


def layer(
    entries: Mapping[str, Entry] | Iterable[tuple[str, Entry]],
    *,
    tar_format: int = tarfile.PAX_FORMAT,
) -> bytes:
    """A tar of the entries, in their order. Bytes are a file; whiteouts go by their names (.wh.…).

    Pairs instead of a mapping may name a path twice.
    """
    pairs = entries.items() if hasattr(entries, "items") else entries
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for path, entry in pairs:
            info, data = _member(path, File(entry) if isinstance(entry, bytes) else entry)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def layer_of(directory: Path) -> bytes:
    """A tar of what is in `directory`, with owners, modes, times, links and xattrs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(directory.rglob("*")):
            info = tar.gettarinfo(path, arcname=str(path.relative_to(directory)))
            for name in os.listxattr(path, follow_symlinks=False):
                value = os.getxattr(path, name, follow_symlinks=False)
                info.pax_headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return out.getvalue()


@dataclass(frozen=True)
class Image:
    """`layers`: uncompressed tars, bottom first. `config`: what goes beside Env and its like.

    `compress`: one for all layers, or one each. `docker`: Docker's media types, schema 2.
    """

    layers: Sequence[bytes]
    tag: str = "latest"
    config: Mapping[str, Any] = field(default_factory=dict)
    platform: str = "linux/amd64"
    compress: Compression | Sequence[Compression] = "gzip"
    docker: bool = False

    def compressions(self) -> Sequence[Compression]:
        same = isinstance(self.compress, str)
        return [self.compress] * len(self.layers) if same else self.compress


def write_layout(folder: Path, images: Sequence[Image]) -> list[str]:
    """Returns the digests of their manifests. Images of one tag become one index."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifests = [_put_image(folder, image) for image in images]
    entries = []
    for tag in dict.fromkeys(image.tag for image in images):
        same = [m for m, image in zip(manifests, images, strict=True) if image.tag == tag]
        entry = same[0] if len(same) == 1 else _put_index(folder, same, images[0].docker)
        entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
    index = {"schemaVersion": 2, "manifests": entries}
    (folder / "index.json").write_text(json.dumps(index))
    return [manifest["digest"] for manifest in manifests]


def write_docker_archive(file: Path, images: Sequence[Image], *, linked: bool = False) -> None:
    """As `docker save` did for years. `linked`: a layer that came before is a symbolic link."""
    listed: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    with tarfile.open(file, "w") as tar:
        for number, image in enumerate(images):
            config = config_of(image)
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(tar, name, config)
            paths = []
            for place, data in enumerate(image.layers):
                digest = hashlib.sha256(data).hexdigest()
                path = f"{number}{place}{digest[2:]}/layer.tar"
                if linked and digest in seen:
                    info = tarfile.TarInfo(path)
                    info.type, info.linkname = tarfile.SYMTYPE, f"../{seen[digest]}"
                    tar.addfile(info)
                else:
                    _add(tar, path, _compressed(data, image.compressions()[place]))
                seen.setdefault(digest, path)
                paths.append(path)
            listed.append({"Config": name, "RepoTags": [image.tag], "Layers": paths})
        _add(tar, "manifest.json", json.dumps(listed).encode())


def config_of(image: Image) -> bytes:
    os_name, architecture, *variant = image.platform.split("/")
    return json.dumps(
        {
            "os": os_name,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
            "config": dict(image.config),
            "rootfs": {"type": "layers", "diff_ids": [_digest(data) for data in image.layers]},
        }
    ).encode()


def put_blob(folder: Path, media_type: str, data: bytes) -> dict[str, Any]:
    """Returns its descriptor."""
    blob_path(folder, _digest(data)).write_bytes(data)
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def blob_path(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")


def _put_image(folder: Path, image: Image) -> dict[str, Any]:
    kind, config_kind, layer_kind, joint = (
        ("distribution.manifest.v2", "container.image.v1", "image.rootfs.diff.tar", ".")
        if image.docker
        else ("manifest.v1", "config.v1", "layer.v1.tar", "+")
    )
    start = "application/vnd.docker." if image.docker else "application/vnd.oci.image."
    layers = []
    for data, how in zip(image.layers, image.compressions(), strict=True):
        suffix = "" if how == "plain" else joint + how
        layers.append(put_blob(folder, start + layer_kind + suffix, _compressed(data, how)))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{start}{kind}+json",
        "config": put_blob(folder, f"{start}{config_kind}+json", config_of(image)),
        "layers": layers,
    }
    entry = put_blob(folder, f"{start}{kind}+json", json.dumps(manifest).encode())
    names = ("os", "architecture", "variant")
    return {**entry, "platform": dict(zip(names, image.platform.split("/"), strict=False))}


def _put_index(folder: Path, manifests: list[dict[str, Any]], docker: bool) -> dict[str, Any]:
    kind = "docker.distribution.manifest.list.v2" if docker else "oci.image.index.v1"
    media_type = f"application/vnd.{kind}+json"
    index = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    return put_blob(folder, media_type, json.dumps(index).encode())


def _member(path: str, entry: Entry) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.mtime = MTIME
    data = b""
    match entry:
        case File() | Dir():
            info.mode, info.uid, info.gid, info.mtime = entry[-5:-1]
            for name, value in entry.xattrs.items():
                text = value.decode("utf-8", "surrogateescape")
                info.pax_headers = {**info.pax_headers, f"SCHILY.xattr.{name}": text}
            if isinstance(entry, Dir):
                info.type = tarfile.DIRTYPE
            else:
                data = entry.data
                info.size = len(data)
        case Symlink(target):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        case Hardlink(target):
            info.type, info.linkname = tarfile.LNKTYPE, target
        case Device(kind, info.devmajor, info.devminor, info.mode):
            info.type = tarfile.CHRTYPE if kind == "chr" else tarfile.BLKTYPE
        case Fifo(info.mode):
            info.type = tarfile.FIFOTYPE
    return info, data


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _compressed(data: bytes, how: Compression) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    return zstandard.compress(data) if how == "zstd" else data


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
