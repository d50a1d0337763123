"""How a call to the agent can fail; apart from `client.py`, whose import is half of an `exec`."""

from __future__ import annotations

from devloop.cafs.errors import DevloopError

__all__ = ["AgentGone", "RemoteError"]


class AgentGone(DevloopError):
    """The agent does not answer: it ended, was killed, or the link to it is cut."""

    hint = "`devloop doctor` looks into it"


class RemoteError(DevloopError):
    """What the agent refused, in its own words."""

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
