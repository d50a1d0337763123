"""A spec as the config of an OCI runtime. Pure: looks at no file.

Follows the OCI runtime specification 1.0.2, config.md and config-linux.md. The container's first
process is the pause program, without any capability; runs are started by the spawner that
goes in later (`inside`), with `RUN_CAPABILITIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .caches import cache_mounts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .devices import Devices, Node
    from .rootless import Rootless
    from .spec import ContainerSpec

__all__ = ["INSIDE", "RUN_CAPABILITIES", "Stage", "oci_config"]

_TTY = 5  # the group, in every distribution

# Where devloop's own files are in every container.
INSIDE = "/run/devloop"

# Docker's list less what runs have no use for: MKNOD (the mounts are nodev), NET_RAW (the box's own
# network is the default), SETFCAP, SETPCAP and AUDIT_WRITE.
RUN_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_SYS_CHROOT": 18,
}

_MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats")),
    *(f"/proc/{name}" for name in ("sched_debug", "scsi", "timer_list", "timer_stats")),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
_READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))


@dataclass(frozen=True, slots=True)
class Stage:
    """The folders that a keeper prepares, all below one that is mounted for it alone."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def workspace(self) -> Path:
        """The project's folder, as the container's user is to see it."""
        return self.folder / "workspace"

    @property
    def hosts(self) -> Path:
        """/etc/hosts of a container with a network of its own."""
        return self.folder / "hosts"

    @property
    def inside(self) -> Path:
        """What the container sees as INSIDE."""
        return self.folder / "inside"


def oci_config(
    spec: ContainerSpec,
    stage: Stage,
    *,
    program: Path,
    devices: Devices,
    seccomp: dict[str, Any] | None,
    hostname: str,
    cgroup: str,
    rootless: Rootless | None = None,
    host_files: Sequence[str] = (),
) -> dict[str, Any]:
    """config.json. `program`: the folder of the zygote program, `cgroup`: its path below each
    hierarchy's root, `host_files`: files of the box's that it shows at the same place, `rootless`:
    who exists in the user namespace that the runtime is started in, if it is in one."""
    namespaces = ["pid", "mount", "ipc", "uts"]
    is_isolated = spec.network == "isolated"
    if is_isolated:
        namespaces.append("network")
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
        "rootfsPropagation": "private",
    }
    if rootless is None:
        linux["cgroupsPath"] = cgroup
        linux["devices"] = [device.oci() for device in devices.nodes]
    if seccomp is not None:
        linux["seccomp"] = seccomp
    return {
        "ociVersion": "1.0.2",
        "process": _pause_process(),
        "root": {"path": str(stage.root), "readonly": False},
        "hostname": hostname,
        "mounts": [
            *_kernel_mounts(spec, rootless),
            *(_device(node) for node in devices.nodes if rootless is not None),
            *(_bound(path, path, "ro") for path in host_files),
            *([_bound(str(stage.hosts), "/etc/hosts", "ro")] if is_isolated else []),
            _bound(str(stage.inside), INSIDE, "ro"),
            _bound(str(program), f"{INSIDE}/zygote", "ro"),
            *(
                _bound(str(path), target, "rw")
                for path, target in cache_mounts(spec.caches, spec.image_name)
            ),
            *(_bound(str(path), str(target), "ro") for path, target in devices.files),
            _bound(str(stage.workspace), spec.target, "rw"),
            *(
                _bound(str(mount.source), mount.target, "ro" if mount.read_only else "rw")
                for mount in spec.mounts
            ),
        ],
        "linux": linux,
    }


def _pause_process() -> dict[str, Any]:
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": [f"{INSIDE}/pause"],
        "env": ["PATH=/"],
        "cwd": "/",
        "capabilities": {
            kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        },
        "noNewPrivileges": True,
    }


def _kernel_mounts(spec: ContainerSpec, rootless: Rootless | None) -> list[dict[str, Any]]:
    """/dev alone may hold devices: nobody in the container may make one there."""
    plain = ["nosuid", "noexec", "nodev"]
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if rootless is None or _TTY in rootless.gids:
        devpts.append(f"gid={_TTY}")
    return [
        _mount("/proc", "proc", "proc", plain),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", devpts),
        _mount(
            *("/dev/shm", "tmpfs", "shm"),
            ["nosuid", "nodev", "mode=1777", f"size={spec.shm_bytes}"],
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", plain),
        _sysfs(plain, is_bound=rootless is not None and spec.network == "host"),
    ]


def _sysfs(plain: list[str], *, is_bound: bool) -> dict[str, Any]:
    """The kernel gives one to root of the network alone; others can have the box's, with all that
    is mounted in it."""
    if is_bound:
        return _mount("/sys", "bind", "/sys", [*plain, "rbind", "ro", "rro", "rprivate"])
    return _mount("/sys", "sysfs", "sysfs", [*plain, "ro"])


def _device(node: Node) -> dict[str, Any]:
    """Where nobody may make one."""
    return _mount(node.path, "bind", node.source, ["bind", "nosuid", "noexec", "rprivate"])


def _bound(source: str, target: str, access: str) -> dict[str, Any]:
    return _mount(target, "bind", source, ["rbind", access, "nosuid", "nodev", "rprivate"])


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
