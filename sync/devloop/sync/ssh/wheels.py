"""The wheels that a box needs: its own half of devloop, and what that depends on.

Fetched here, by pip for the box's platform and Python, so that the box needs no package index. What
was fetched is kept in the cache directory, one folder a set of requirements and platform.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs import dirs

from .boxerrors import NoWheels
from .build import own_files
from .facts import platform_tags, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .facts import BoxPython

__all__ = ["Wheel", "fetch_wheels", "own_wheel", "requirements"]

# What the box half imports; the rest of the distribution's dependencies are the laptop's.
BOX_NEEDS = (
    "blake3",
    "grpcio",
    "nvidia-ml-py",
    "protobuf",
    "psutil",
    "pyfastcdc",
    "zstandard",
)
FETCH_TIMEOUT_S = 600.0


class Wheel(NamedTuple):
    name: str
    content: bytes

    @property
    def unpacked_bytes(self) -> int:
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return sum(info.file_size for info in archive.infolist())


def own_wheel() -> Wheel:
    """The box half as it is here. Without metadata: nothing asks for it on the box."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in own_files():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return Wheel("devloop-box-py3-none-any.whl", buffer.getvalue())


def requirements() -> list[str]:
    """In the versions that are installed here, where they are: these were tried together."""
    from importlib.metadata import PackageNotFoundError, requires
    from importlib.metadata import version as installed_version

    ranges: dict[str, str] = {}
    for words in requires("devloop") or []:
        requirement = words.partition(";")[0].strip()
        name = requirement.rstrip("0123456789.,<>=!~* ")
        ranges.setdefault(name, requirement)
    found = []
    for name in BOX_NEEDS:
        try:
            found.append(f"{name}=={installed_version(name)}")
        except PackageNotFoundError:
            found.append(ranges.get(name, name))
    return found


async def fetch_wheels(python: BoxPython) -> list[Wheel]:
    """What our half depends on, for that Python. Raises NoWheels."""
    wanted = requirements()
    folder = dirs.cache_dir() / "wheels" / _set_name(python, wanted)
    if not folder.is_dir():
        await _fetch(folder, python, wanted)
    return [Wheel(path.name, path.read_bytes()) for path in sorted(folder.glob("*.whl"))]


def _set_name(python: BoxPython, wanted: Iterable[str]) -> str:
    words = "\n".join([*wanted, python.minor, *platform_tags(python)])
    return blake2b(words.encode(), digest_size=8).hexdigest()


async def _fetch(folder: Path, python: BoxPython, wanted: list[str]) -> None:
    """Whole or not there: pip fills a folder beside it, which is renamed."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix="fetching-", dir=folder.parent))
    try:
        await _run_pip(_pip_words(python, beside, wanted), python)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # another client was faster
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _pip_words(python: BoxPython, folder: Path, wanted: list[str]) -> list[str]:
    words = ["download", "--quiet", "--no-input", "--disable-pip-version-check"]
    words += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python.minor}"]
    words += [f"--abi=cp{python.minor.replace('.', '')}", "--abi=abi3", "--abi=none"]
    words += [f"--platform={tag}" for tag in platform_tags(python)]
    return [*words, f"--dest={folder}", "--", *wanted]


async def _run_pip(words: list[str], python: BoxPython) -> None:
    process = await asyncio.create_subprocess_exec(
        *_pip(),
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        what = f"Python {python.minor} on {python.machine} ({python.libc})"
        errors = b"\n".join(line for line in said.splitlines() if not line.startswith(b"WARNING"))
        raise NoWheels(f"no wheels for {what}: {printable(errors)}")


def _pip() -> list[str]:
    """Raises NoWheels."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    if python := shutil.which("python3"):
        return [python, "-m", "pip"]
    raise NoWheels(
        "there is no pip on this machine", hint=f"`{sys.executable} -m ensurepip` brings one"
    )
