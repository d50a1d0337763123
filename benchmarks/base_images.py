"""Real images to measure and test with, as OCI layouts: made once, and kept in a cache.

    debian_base()     Debian with Python, one layer
    torch_image()     the same with numpy and torch for CPUs as one layer more, bytecode compiled

They lie outside of any checkout, in a folder named by their recipe: whoever changes the recipe
makes a new image. IMAGE_CACHE names another place. `python -m benchmarks.base_images` makes both.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from .sandbox import Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BaseImage", "debian_base", "torch_image"]

SUITE = "bookworm"
# Its interpreter is of this version: bytecode of another one would be stale.
PYTHON = "3.11"
TORCH = ("torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1")
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
_LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
_VERSION = 1  # of what this program makes of a recipe
_PIECE_BYTES = 1 << 20
_OCI = "application/vnd.oci.image."


class BaseImage(NamedTuple):
    """`layout`: an OCI layout, its image tagged `latest`. `size_bytes`: of all files, unpacked."""

    layout: Path
    entries: int
    size_bytes: int
    compressed_bytes: int

    @property
    def reference(self) -> str:
        """For skopeo and for us."""
        return f"oci:{self.layout}:latest"


class _Layer(NamedTuple):
    descriptor: dict[str, object]
    diff_id: str
    entries: int
    size_bytes: int


def debian_base() -> BaseImage:
    """Takes half a minute the first time. Raises Skipped where it cannot be made."""
    return _kept("debian", [*_mmdebstrap_words()], lambda folder: [_debian_layer(folder)])


def torch_image() -> BaseImage:
    """Its lower layer is `debian_base`'s. Raises Skipped."""
    base = debian_base()

    def make(folder: Path) -> list[_Layer]:
        return [_copy_layer(base, folder), _site_layer(folder)]

    return _kept("torch", [base.layout.name, *TORCH], make)


def _kept(name: str, recipe: Sequence[str], make: Callable[[Path], list[_Layer]]) -> BaseImage:
    """One process makes it, the others wait. Half of an image is never seen."""
    key = hashlib.sha256(json.dumps([_VERSION, _OCI, *recipe]).encode()).hexdigest()[:12]
    root = Path(os.environ.get("IMAGE_CACHE") or f"/var/tmp/devloop-images-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = root / f"{name}-{key}"
    with (root / f"{name}-{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
            try:
                _write_layout(made, make(made))
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    figures = json.loads((folder / "figures.json").read_text())
    return BaseImage(folder, *figures)


def _mmdebstrap_words() -> list[str]:
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    include = "--include=python3,libstdc++6,libgomp1"  # what torch links against
    return ["mmdebstrap", "--quiet", "--variant=essential", include, *without, SUITE]


def _debian_layer(folder: Path) -> _Layer:
    tar = folder / "base.tar"
    _run([*_mmdebstrap_words(), str(tar)])
    layer = _add_layer(folder, tar)
    tar.unlink()
    return layer


def _site_layer(folder: Path) -> _Layer:
    """As pip installs it; without write access to the image, so that all bytecode is there."""
    root = folder / "root"
    site = root / SITE
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    version = ["--python-version", PYTHON, "--only-binary", ":all:", "--no-compile"]
    _run([*pip, *version, "--target", str(site), *TORCH])
    # Paths in the bytecode are those inside the image.
    strip = ["-s", str(root), "-p", "/", "-j", "2"]
    _run([sys.executable, "-m", "compileall", "-qq", *strip, str(site)], may_fail=True)
    tar = folder / "site.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            info = archive.gettarinfo(path, arcname=str(path.relative_to(root)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            with path.open("rb") if info.isreg() else _nothing() as file:
                archive.addfile(info, file)
    layer = _add_layer(folder, tar)
    shutil.rmtree(root)
    tar.unlink()
    return layer


def _nothing() -> IO[bytes]:
    return Path(os.devnull).open("rb")


def _copy_layer(base: BaseImage, folder: Path) -> _Layer:
    layers: list[list[object]] = json.loads((base.layout / "layers.json").read_text())
    layer = _Layer(*layers[0])  # type: ignore[arg-type] # what _write_layout has written
    name = str(layer.descriptor["digest"]).partition(":")[2]
    os.link(base.layout / "blobs" / "sha256" / name, _blobs(folder) / name)
    return layer


def _add_layer(folder: Path, tar: Path) -> _Layer:
    """Compressed as registries have most layers: gzip, level 6."""
    compressed = folder / "layer.tar.gz"
    inner = hashlib.sha256()
    with (
        tar.open("rb") as source,
        compressed.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as out,
    ):
        while piece := source.read(_PIECE_BYTES):
            inner.update(piece)
            out.write(piece)
    digest, size_bytes = _digest_of(compressed)
    compressed.rename(_blobs(folder) / digest)
    with tarfile.open(tar) as archive:
        sizes = [member.size for member in archive]
    descriptor = _descriptor(f"{_OCI}layer.v1.tar+gzip", digest, size_bytes)
    return _Layer(descriptor, f"sha256:{inner.hexdigest()}", len(sizes), sum(sizes))


def _write_layout(folder: Path, layers: list[_Layer]) -> None:
    config = {
        "os": "linux",
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}manifest.v1+json",
        "config": _put(folder, f"{_OCI}config.v1+json", config),
        "layers": [layer.descriptor for layer in layers],
    }
    entry = _put(folder, f"{_OCI}manifest.v1+json", manifest)
    named = {**entry, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    _dump(folder / "index.json", {"schemaVersion": 2, "manifests": [named]})
    _dump(folder / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    _dump(folder / "layers.json", layers)
    compressed = sum(int(str(layer.descriptor["size"])) for layer in layers)
    sums = [sum(layer.entries for layer in layers), sum(layer.size_bytes for layer in layers)]
    _dump(folder / "figures.json", [*sums, compressed])


def _put(folder: Path, media_type: str, document: object) -> dict[str, object]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (_blobs(folder) / digest).write_bytes(data)
    return _descriptor(media_type, digest, len(data))


def _descriptor(media_type: str, digest: str, size_bytes: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size_bytes}


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _blobs(folder: Path) -> Path:
    made = folder / "blobs" / "sha256"
    made.mkdir(parents=True, exist_ok=True)
    return made


def _digest_of(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _run(words: list[str], *, may_fail: bool = False) -> None:
    """`may_fail`: packages carry files of other Python versions, which do not compile."""
    if shutil.which(words[0]) is None:
        raise Skipped(f"needs {words[0]}")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    if done.returncode and not may_fail:
        raise Skipped(f"{words[0]} fails: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    for make_image in (debian_base, torch_image):
        started = time.monotonic()
        print(make_image(), f"{time.monotonic() - started:.0f} s", flush=True)
