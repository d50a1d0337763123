"""The kernel's side of a FUSE mount: finding it, ending it, tuning it.

Works from any process that may: whoever has started a server and has to do without it. Never looks
at a file of the mount itself, where it would wait for the server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from devloop.cafs.errors import DevloopError

__all__ = ["ConnectionUnknown", "abort", "device_of", "tune"]

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_CONTROL_S = 5.0
_READ_AHEAD_KIB = 1024  # as much as one request carries
_MAX_BACKGROUND = 256  # reads that may wait for a tier while others go on


class ConnectionUnknown(DevloopError):
    """The kernel has no such FUSE mount, or does not let us at it."""

    hint = "as root: mount -t fusectl none /sys/fs/fuse/connections"


def device_of(mountpoint: str | Path, *, pid: int | str = "self") -> int | None:
    """The device number of the FUSE mount on top of `mountpoint`, as process `pid` sees mounts.

    None when there is none. Reads mountinfo only.
    """
    wanted = os.fsencode(mountpoint)
    found = None
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split()
        if _unescaped(fields[4]) == wanted and after.split()[0].startswith(b"fuse"):
            major, _, minor = fields[2].partition(b":")
            found = os.makedev(int(major), int(minor))
    return found


def abort(mount: str | Path | int, *, pid: int | str = "self") -> None:
    """Ends a FUSE connection: whoever waits for its server gets an error at once.

    `mount` is a mount point as process `pid` sees it, or a device number (`st_dev`) that was kept.
    The mount itself stays until it is unmounted. Does nothing where it has ended already. Raises
    ConnectionUnknown when it may still be alive.
    """
    device = mount if isinstance(mount, int) else device_of(mount, pid=pid)
    if device is None:
        return
    reason = _control(device, {"abort": 1})
    if reason:
        raise ConnectionUnknown(f"cannot abort the FUSE mount {mount}: {reason}")


def tune(device: int) -> None:
    """Larger reads, and more of them at a time, where we may say so."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{numbers}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))
    _control(device, {"max_background": _MAX_BACKGROUND, "congestion_threshold": _MAX_BACKGROUND})


def _control(device: int, values: dict[str, int]) -> str:
    """Writes to the kernel's files for a connection. What is wrong, or nothing."""
    folder = _CONNECTIONS / str(os.minor(device))
    if not _is_mounted():
        return _control_elsewhere(folder, values)
    try:
        for name, value in values.items():
            (folder / name).write_text(str(value))
    except FileNotFoundError:
        return ""  # it has ended
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_mounted() -> bool:
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split()[4] == os.fsencode(_CONNECTIONS) for line in lines)


def _control_elsewhere(folder: Path, values: dict[str, int]) -> str:
    """In a mount namespace that ends with this call: few machines have fusectl mounted."""
    writes = "; ".join(f"echo {value} >{folder}/{name}" for name, value in values.items())
    script = f"mount -t fusectl none {_CONNECTIONS} && {{ [ ! -d {folder} ] || {{ {writes}; }}; }}"
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONTROL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip()[-300:] if done.returncode else ""


def _unescaped(field: bytes) -> bytes:
    return field.decode("unicode_escape").encode("latin-1") if b"\\" in field else field
