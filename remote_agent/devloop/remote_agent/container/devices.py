"""What a box's GPUs need in a container: device nodes, and the driver's libraries and programs.

CDI specifications, where the box has them, say all of it. Without them: the nodes of /dev, and the
libraries that nvidia-container-toolkit would take, as the box's linker cache knows them. A box
without GPUs needs nothing. Reads files of the box, never of an image.

CDI: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Devices", "Node", "find_devices"]

_CDI_FOLDERS = ("etc/cdi", "var/run/cdi")  # the later wins
_NODES = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)")
# The stems that nvidia-container-toolkit takes for compute and utility.
_LIBRARIES = re.compile(
    r"lib(cuda|cudadebugger|nvcuvid|nvidia-(ml|cfg|nvvm|nvvm70|opencl|ptxjitcompiler|fatbinaryloader"
    r"|allocator|compiler|pkcs11|pkcs11-openssl3|encode|opticalflow|gpucomp|sandboxutils|nscq))"
    r"\.so(\.[\d.]+)?"
)
_PROGRAMS = ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control")
_LDCONFIG_LINE = re.compile(r"\s*(\S+) \((.*)\) => (/\S+)$")
# Where they are in the container: no image has it, and LD_LIBRARY_PATH leads there.
_FOLDER = "/run/devloop/driver"
_LDCONFIG_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """A character device; `mode` as it is on the box, `on_box` where it is there."""

    path: str
    major: int
    minor: int
    mode: int = 0o666
    on_box: str = ""

    @property
    def source(self) -> str:
        return self.on_box or self.path

    def oci(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "type": "c",
            "major": self.major,
            "minor": self.minor,
            "fileMode": self.mode,
            "uid": 0,
            "gid": 0,
        }


@dataclass(frozen=True, slots=True)
class Devices:
    """`files`: read-only bind mounts, (path on the box, path in the container)."""

    nodes: tuple[Node, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    source: str = "no GPU"


def find_devices(root: Path = Path("/")) -> Devices:
    """`root` is another folder in tests only."""
    return _from_cdi(root) or _from_driver(root) or Devices()


# -- container device interface


def _from_cdi(root: Path) -> Devices | None:
    specs: dict[str, dict[str, Any]] = {}
    for folder in _CDI_FOLDERS:
        for path in sorted((root / folder).glob("*.json")):
            spec = _read_json(path)
            if str(spec.get("kind", "")) == "nvidia.com/gpu":
                specs[spec["kind"]] = spec
    if not specs:
        return None
    edits = [edit for spec in specs.values() for edit in _edits(spec)]
    nodes = {node.path: node for edit in edits for node in _cdi_nodes(edit, root)}
    files = {
        (Path(mount["hostPath"]), mount["containerPath"])
        for edit in edits
        for mount in edit.get("mounts") or ()
    }
    pairs = [item.partition("=") for edit in edits for item in edit.get("env") or ()]
    env = tuple((name, value) for name, _, value in pairs)
    return Devices(tuple(nodes.values()), tuple(sorted(files)), env, "CDI")


def _edits(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of every device but `all`, which stands for the others."""
    yield spec.get("containerEdits") or {}
    for device in spec.get("devices") or ():
        yield device.get("containerEdits") or {}


def _cdi_nodes(edit: dict[str, Any], root: Path) -> Iterator[Node]:
    for device in edit.get("deviceNodes") or ():
        found = _node(root, str(device.get("hostPath") or device["path"]))
        if found is not None:
            yield Node(str(device["path"]), found.major, found.minor, found.mode, found.path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


# -- the driver itself


def _from_driver(root: Path) -> Devices | None:
    names = sorted(name for name in _names_in(root / "dev") if _NODES.fullmatch(name))
    names += [f"nvidia-caps/{name}" for name in _names_in(root / "dev/nvidia-caps")]
    nodes = [node for name in names if (node := _node(root, f"/dev/{name}")) is not None]
    if not any(re.fullmatch(r"/dev/nvidia\d+", node.path) for node in nodes):
        return None
    files = {f"{_FOLDER}/{path.name}": path for path in _libraries()}
    files |= {f"/usr/bin/{name}": path for name, path in _programs(root)}
    return Devices(
        tuple(nodes),
        tuple((path, target) for target, path in sorted(files.items())),
        (("LD_LIBRARY_PATH", _FOLDER),) if files else (),
        "device nodes",
    )


def _libraries() -> Iterator[Path]:
    """Of this process's own kind; each under the name that programs ask for."""
    try:
        listing = subprocess.run(
            ["ldconfig", "-p"],
            env={"PATH": "/sbin:/usr/sbin:/usr/bin:/bin", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_LDCONFIG_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return
    yield from parse_ldconfig(listing.splitlines())


def parse_ldconfig(lines: Iterable[str]) -> list[Path]:
    """The driver's libraries among the lines of `ldconfig -p`; the first of a name wins."""
    found: dict[str, Path] = {}
    for line in lines:
        match = _LDCONFIG_LINE.match(line)
        if match is None or not _is_native(match[2]) or not _LIBRARIES.fullmatch(match[1]):
            continue
        found.setdefault(match[1], Path(match[3]))
    return list(found.values())


def _is_native(kinds: str) -> bool:
    return "x86-64" in kinds or "AArch64" in kinds


def _programs(root: Path) -> Iterator[tuple[str, Path]]:
    for name in _PROGRAMS:
        path = root / "usr/bin" / name
        if path.is_file():
            yield name, path


def _node(root: Path, path: str) -> Node | None:
    try:
        found = (root / path.lstrip("/")).stat()
    except OSError:
        return None
    if not stat.S_ISCHR(found.st_mode):
        return None
    mode = stat.S_IMODE(found.st_mode)
    return Node(path, os.major(found.st_rdev), os.minor(found.st_rdev), mode)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
