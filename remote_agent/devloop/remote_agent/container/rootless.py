"""What an agent that is not root can have on this box: found out once, as its keepers find it.

Owns the question whether a user namespace may be made, and who exists in one. Makes none of its
own: a process does that is asked for nothing else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.cafs.ids import Ids
from devloop.cafs.mount.namespace import may_mount
from devloop.cafs.mount.within import command_within

__all__ = ["NO_OTHERS", "NoNamespace", "Rootless", "look_at_namespace"]

_TIMEOUT_S = 20.0
NO_OTHERS = (
    "install newuidmap on the box (`apt install uidmap`), and give its user ids there: "
    "`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`"
)
# What forbids user namespaces, the value that allows them.
_SYSCTLS = {
    "kernel.unprivileged_userns_clone": "1",
    "kernel.apparmor_restrict_unprivileged_userns": "0",
    "user.max_user_namespaces": "10000",
}


class NoNamespace(DevloopError):
    """The box lets nobody but root make containers."""

    hint = 'run the agent as root, or use `image = "host"`'


class Rootless(NamedTuple):
    """The ids in the namespace of a container."""

    uids: Ids
    gids: Ids
    refusal: str = ""  # what newuidmap or newgidmap said, if there are ids that they did not map

    @property
    def has_others(self) -> bool:
        """Than root, who is the user of the agent."""
        return 1 in self.uids and 1 in self.gids


def look_at_namespace() -> Rootless | None:
    """None for who may do without one. Takes some 100 ms. Raises NoNamespace."""
    if may_mount():
        return None
    try:
        done = subprocess.run(
            command_within(["sh", "-c", "cat /proc/self/uid_map; echo; cat /proc/self/gid_map"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoNamespace("a user namespace takes too long to be made") from None
    said = done.stderr.strip().rpartition("\n")[2]
    if done.returncode:
        raise NoNamespace(f"user namespaces are not allowed on the box: {said}", hint=_hint())
    uids, gids = map(Ids.parse, done.stdout.split("\n\n"))
    return Rootless(uids, gids, said)


def _hint() -> str:
    for name, wanted in _SYSCTLS.items():
        if _forbids(name, wanted):
            return f"as root: sysctl {name}={wanted}; or {NoNamespace.hint}"
    return NoNamespace.hint


def _forbids(name: str, wanted: str) -> bool:
    try:
        value = Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return False
    return value == "0" if wanted != "0" else value != "0"
