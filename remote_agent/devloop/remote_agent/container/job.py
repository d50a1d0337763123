"""What a keeper is told: all of it decided beforehand, from a spec and from what the box has.

Owns the names of a container's things on the box. Starts nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devloop.cafs.ids import OUTSIDE
from devloop.cafs.mount.namespace import may_mount

from . import cgroups
from .bundle import RUN_CAPABILITIES, Stage, oci_config
from .caches import CACHES, cache_env, make_caches
from .devices import Devices, find_devices
from .locked import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS
from .pause import pause_program
from .rootless import Rootless, look_at_namespace
from .runtime import Runtime
from .seccomp import NoFilter, kernel_filter, oci_profile
from .spec import DEFAULT_PATH, FolderRoot

if TYPE_CHECKING:
    from .spec import ContainerSpec, Root

__all__ = ["HOST_FILES", "Box", "base_env", "keeper_job", "server_order"]

_PROGRAM = Path(__file__).parents[1] / "zygote"
HOST_FILES = ("/etc/resolv.conf", "/etc/hosts")
_INSIDE = "/run/devloop/"
DEADLINE_S = 30.0  # so long may a read of a missing file take


@dataclass(frozen=True, slots=True)
class Box:
    """What is the same for every container of a box, found out once."""

    runtime: Runtime
    devices: Devices
    profile: dict[str, Any]
    seccomp: bytes
    without_seccomp: str  # why, empty where there is a filter
    program: bytes
    rootless: Rootless | None = None

    @classmethod
    def look(cls, runtime: Runtime) -> Box:
        """Takes some milliseconds, more for who is not root. Raises NoPause and NoNamespace."""
        machine = platform.machine()
        seccomp, why = b"", ""
        try:
            seccomp = kernel_filter(machine)
        except NoFilter as error:
            why = error.strerror or str(error)
        profile, program = oci_profile(machine), pause_program(machine)
        return cls(
            *(runtime, find_devices(), profile, seccomp, why, program),
            rootless=look_at_namespace(),
        )


def keeper_job(spec: ContainerSpec, box: Box, folder: Path, layers: Path) -> dict[str, Any]:
    """For one container, whose own folder is `folder`; `layers` holds the ones that are kept."""
    stage = Stage(folder / "stage")
    devices = box.devices if spec.gpus else Devices()
    if spec.caches is not None:
        make_caches(spec.caches, spec.image_name)
    group = cgroups.group_of(folder)
    limits = spec.limits
    config = oci_config(
        spec,
        stage,
        program=_PROGRAM,
        devices=devices,
        seccomp=box.profile if box.seccomp else None,
        hostname=platform.node(),
        cgroup=group,
        rootless=box.rootless,
        host_files=[path for path in HOST_FILES if _is_shown(spec, path)],
    )
    return {
        "folder": str(folder),
        "upper": _kept_layer(layers, spec.name) if spec.name else None,
        "image": {"key": spec.image_key, "reference": spec.reference},
        "root": _root(spec.root),
        "workspace": str(spec.workspace),
        "targets": [
            (spec.target, True),
            *((mount.target, mount.source.is_dir()) for mount in spec.mounts),
        ],
        "user": spec.image.user,
        "records": spec.records,
        "config": config,
        "runtime": box.runtime.path,
        "kind": box.runtime.kind,
        "program": box.program.hex(),
        "cgroup": group,
        "groups": cgroups.limit_files(limits.memory_bytes, limits.cpus, limits.processes),
        "victim_score": cgroups.victim_score(limits.memory_bytes),
        "capabilities": list(RUN_CAPABILITIES.values()),
        "seccomp": box.seccomp.hex(),
        "namespaces": _namespaces(spec),
        "hosts": _hosts(platform.node()),
        "limits": _rlimits(spec),
        "inside": ["zygote", *(f"caches/{name}" for name in CACHES if spec.caches is not None)],
        "files": sorted(
            target.removeprefix(_INSIDE)
            for _, target in devices.files
            if target.startswith(_INSIDE)
        ),
    }


def base_env(spec: ContainerSpec, box: Box, home: str) -> dict[str, bytes]:
    """What a run has before the user's own variables: nothing of the box's or the client's."""
    env = {"PATH": DEFAULT_PATH, "HOME": home, **cache_env(spec.caches)}
    given = dict(spec.image.env)
    if spec.gpus:
        for name, value in box.devices.env:
            # The driver's libraries come last: an image may bring newer ones of its own.
            is_path = name == "LD_LIBRARY_PATH" and given.get(name)
            given[name] = f"{given[name]}:{value}" if is_path else value
    return {name: os.fsencode(value) for name, value in (env | given).items()}


def _hosts(hostname: str) -> str:
    """For a network that is nothing but its loopback."""
    return f"127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"


def _is_shown(spec: ContainerSpec, path: str) -> bool:
    return spec.network == "host" and os.path.isfile(path)


def _namespaces(spec: ContainerSpec) -> int:
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    return kinds | CLONE_NEWNET if spec.network == "isolated" else kinds


def _rlimits(spec: ContainerSpec) -> dict[str, tuple[int, int]]:
    """By the names of the `resource` module."""
    ulimits = spec.limits.ulimits
    return {f"RLIMIT_{limit.name.upper()}": (limit.soft, limit.hard) for limit in ulimits}


def _kept_layer(layers: Path, name: str) -> str:
    folder = layers / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(folder)


def _root(root: Root) -> dict[str, Any]:
    if isinstance(root, FolderRoot):
        return {"folder": str(root.path)}
    found: dict[str, Any] = {
        "level": root.level,
        "metadata": str(root.metadata),
        "blobs": str(root.store / "blobs"),
    }
    if root.lazy or root.level == "fuse+overlay":
        request = {
            "mode": "tree" if root.level == "fuse+overlay" else "blobs",
            "store": str(root.store),
            "index": root.index,
            "tiers": list(root.tiers),
            "deadline_s": DEADLINE_S,
            "profile": root.profile,
        }
        found["server"] = {"order": server_order(root.tiers), "request": request}
    return found


def server_order(tiers: tuple[str, ...]) -> dict[str, Any]:
    """What a file server can be told before it is known which image it serves."""
    env = dict(os.environ)  # it connects to where tiers are: with the agent's own variables
    if not may_mount():
        env[OUTSIDE] = f"{os.geteuid()}:{os.getegid()}"
    return {
        "command": [sys.executable, "-m", "devloop.cafs.fuse"],
        "env": env,
        "ahead": {"tiers": list(tiers), "deadline_s": DEADLINE_S},
    }
