"""What can be in the way on the box itself, once SSH has reached it: one class a cause."""

from __future__ import annotations

from devloop.cafs.errors import DevloopError

__all__ = [
    "AgentRefused",
    "BoxError",
    "BoxFull",
    "BoxUnwritable",
    "InstallFailed",
    "NoExecution",
    "NoPython",
    "NoWheels",
    "NotOurWords",
    "PlatformUnsupported",
]


class BoxError(DevloopError):
    """The box is reached, and no agent can be had there."""


class NotOurWords(BoxError):
    """Something else answered than devloop's command."""

    hint = (
        "an `exec` in a shell start-up file, a ForceCommand of sshd's, or a login shell that takes "
        "no commands is usual: does `ssh HOST sh -c true` work?"
    )


class NoPython(BoxError):
    """There is no Python that is new enough, and no `uv` to get one."""

    hint = (
        "install Python 3.11 or newer there, or uv (docs.astral.sh/uv), which brings one by itself"
    )


class PlatformUnsupported(BoxError):
    """The agent needs Linux."""

    hint = "choose a box that runs Linux"


class NoWheels(BoxError):
    """What the agent needs for that box could not be had."""

    hint = (
        "connect this machine to its package index once, or set pip's own PIP_INDEX_URL or "
        "PIP_FIND_LINKS; what was fetched is kept"
    )


class BoxFull(BoxError):
    hint = "free space there, or set DEVLOOP_DATA_DIR for its shells to a folder on another disk"


class BoxUnwritable(BoxError):
    hint = "set DEVLOOP_DATA_DIR for its shells to a folder that you can write"


class NoExecution(BoxError):
    """The file system lets no programs run from it, so that no extension module can be loaded."""

    hint = "set DEVLOOP_DATA_DIR for its shells to a folder on a disk without `noexec`"


class InstallFailed(BoxError):
    hint = "try again; nothing half-installed is ever used"


class AgentRefused(BoxError):
    """The agent on the box does not start; the message holds its last words."""
