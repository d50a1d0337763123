"""What a container is to be: plain values, and what an image's config says of them.

Owns ContainerSpec, by which containers are told apart, and the reading of OCI image configs.
Knows nothing of mounts, runtimes and processes.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from devloop.cafs.errors import DevloopError
from devloop.cafs.ulimits import Ulimit

__all__ = [
    "BadImageConfig",
    "ContainerSpec",
    "ExtraMount",
    "FolderRoot",
    "ImageConfig",
    "ImageRoot",
    "Limits",
    "Network",
    "Root",
    "is_below",
    "is_taken",
    "workspace_target",
]

Network: TypeAlias = Literal["host", "isolated"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_WORKSPACE = "/workspace"
# Working directories where a project's files would hide what the image needs.
_NO_WORKSPACE = frozenset(
    (
        *("/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/run", "/sbin", "/usr"),
        *("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
        *("/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/sbin", "/usr/sbin"),
        *("/usr/share", "/var"),
    )
)
# Nothing is mounted there, at whatever depth: it is the kernel's, or devloop's own.
_NOT_THE_IMAGES = ("/proc", "/sys", "/dev", "/run/devloop")
_SIGNAL = re.compile(r"(\d{1,2})|(?:SIG)?([A-Z]+[12]?)([+-]\d{1,2})?", re.ASCII)


class BadImageConfig(DevloopError):
    """The image's config is no OCI image config."""

    hint = "the image is broken: build or push it again"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of its runs. `working_dir` is empty when it says nothing.

    `stop_signal`: its number; 0 when the image names none.
    """

    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: int = 0

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """`data`: the OCI image config, JSON. Raises BadImageConfig.

        https://github.com/opencontainers/image-spec/blob/main/config.md
        """
        try:
            config = json.loads(data).get("config") or {}
            env = [item.partition("=") for item in _words(config.get("Env"))]
            parsed = cls(
                env=tuple((name, value) for name, _, value in env if name),
                entrypoint=_words(config.get("Entrypoint")),
                cmd=_words(config.get("Cmd")),
                working_dir=_text(config.get("WorkingDir")),
                user=_text(config.get("User")),
                stop_signal=_signal(_text(config.get("StopSignal"))),
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise BadImageConfig(f"the image's config cannot be read: {error}") from error
        _refuse_nul(parsed)
        return parsed

    @property
    def command(self) -> tuple[str, ...]:
        """What the image runs when nothing else is asked for."""
        return self.entrypoint + self.cmd


@dataclass(frozen=True, slots=True)
class FolderRoot:
    """A plain directory tree, which is never written to. `index`: of the image that it copies."""

    path: Path
    index: str = ""


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """An index's metadata over the blobs of an image store, as `cafs.mount` mounts it.

    `lazy`: blobs may be missing, so that a file server has to fetch them from `tiers`; ahead of
    all others those of `profile`, a file.
    """

    level: str
    metadata: Path
    store: Path
    index: str
    lazy: bool = False
    tiers: tuple[str, ...] = ()
    profile: str = field(default="", compare=False)


Root: TypeAlias = FolderRoot | ImageRoot


@dataclass(frozen=True, slots=True)
class ExtraMount:
    """A file or folder of the box, `target` as the container names it."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """0 sets no limit. `cpus`: processors' worth of time. `ulimits`: of each process."""

    memory_bytes: int = 0
    cpus: float = 0.0
    processes: int = 0
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Two runs of equal specs share a container.

    `workspace`: the project's folder on the box. `sources`: device and inode of all that is mounted
    from the box; a path may lead to something else tomorrow. `name`: the writable layer of that
    name is kept; else it is thrown away. `reference`: the image's, for people. `caches`: the folder
    on the box that outlives containers, or none. `records`: what is opened in it is noted, from its
    start on.
    """

    root: Root
    image: ImageConfig
    workspace: Path
    mounts: tuple[ExtraMount, ...] = ()
    network: Network = "host"
    shm_bytes: int = 1 << 30
    limits: Limits = Limits()
    name: str = ""
    gpus: bool = True
    caches: Path | None = None
    sources: tuple[tuple[int, int], ...] = ()
    reference: str = field(default="", compare=False)
    records: bool = field(default=False, compare=False)

    @property
    def image_key(self) -> str:
        """What tells its image from others."""
        return str(self.root.path) if isinstance(self.root, FolderRoot) else self.root.index

    @property
    def image_name(self) -> str:
        """What its user calls the image, also when it was built anew."""
        return self.reference or self.image_key

    @property
    def target(self) -> str:
        """Where the workspace is in the container: every run's folder."""
        return workspace_target(self.image)


def workspace_target(image: ImageConfig) -> str:
    """The image's working directory; `/workspace` where it has none that could be covered."""
    wanted = posixpath.normpath(posixpath.join("/", image.working_dir.lstrip("/")))
    is_unfit = wanted in _NO_WORKSPACE or is_taken(wanted)
    return DEFAULT_WORKSPACE if is_unfit else wanted


def is_taken(target: str) -> bool:
    """Is that path in a container no place for a mount?"""
    return any(is_below(target, path) for path in _NOT_THE_IMAGES)


def is_below(path: str, folder: str) -> bool:
    """Or the same. Both are absolute and plain."""
    return path == folder or path.startswith(f"{folder}/")


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list of words")
    return tuple(map(_text, value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _signal(text: str) -> int:
    """Of "SIGTERM", "TERM", "15" or "SIGRTMIN+3"; 0 for none. Raises ValueError."""
    if not text:
        return 0
    if (found := _SIGNAL.fullmatch(text.upper())) is None:
        raise ValueError(f"its StopSignal is {text[:40]!r}")
    digits, name, offset = found.groups()
    known = {f"SIG{name}": -1} | signal.Signals.__members__
    number = int(digits) if digits else known[f"SIG{name}"] + int(offset or 0)
    if number not in signal.valid_signals():
        raise ValueError(f"its StopSignal is {text[:40]!r}")
    return number


def _refuse_nul(config: ImageConfig) -> None:
    texts = [part for pair in config.env for part in pair]
    if any("\0" in text for text in (*texts, *config.command, config.working_dir, config.user)):
        raise BadImageConfig("the image's config holds a NUL character")
