"""Where the agent is, as the rest of this half sees it: a target, and the connection to its agent.

Owns the one place where a lost connection is replaced, and how long to wait between tries. Knows
nothing of how a target is reached: `local.py` and `ssh/` do.
"""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING, Protocol

from devloop.cafs.errors import DevloopError
from devloop.cafs.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .client import AgentClient
    from .model import HostFacts

__all__ = ["AgentEnded", "Connection", "OtherVersion", "Target", "backoff_s", "import_client"]

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 0.8  # a link that is back is used within 3 s, the try's own time included


class AgentEnded(DevloopError):
    """`devloop down` has ended the agent since it was last heard of."""


class OtherVersion(DevloopError):
    """An agent of another version is alive, and has live runs that must not be ended for it."""

    hint = "wait for them (`devloop ps`), or end them and the agent with `devloop down`"

    def __init__(
        self, where: str, version: str, live_runs: Sequence[int], own: str = VERSION
    ) -> None:
        """`where`: "here", "on gpu1". `version`, `own`: the builds, where versions are alike."""
        numbers = ", ".join(map(str, live_runs))
        are = "is" if len(live_runs) == 1 else "are"
        super().__init__(
            f"the agent {where} is devloop {version}, this is {own}, and run {numbers} {are} "
            "live there"
        )


class Target(Protocol):
    """A machine with an agent of this user, or where one can be started."""

    @property
    def name(self) -> str:
        """As in the configuration: "local", or the SSH host."""

    @property
    def is_local(self) -> bool:
        """Whether paths and environment variables mean the same here and there."""

    async def connect(self, *, again: bool = False) -> tuple[AgentClient, HostFacts]:
        """The agent, started when there is none. `again`: after the connection was lost; nobody
        is asked for anything then, and AgentEnded is raised where `devloop down` ended the agent.

        Raises DevloopErrors that say what is in the way.
        """

    async def connect_if_running(self) -> tuple[AgentClient, HostFacts] | None:
        """The agent, of whatever version; None when there is none."""

    async def wait_until_ended(self) -> bool:
        """After `shutdown`: whether the agent is gone, and its runs with it."""

    async def close(self) -> None:
        """Gives up what reaches the agent; the agent goes on."""

    async def forget(self) -> None:
        """After `close`: ends what was kept to reach it faster the next time."""


class Connection:
    """The agent of one target. `client` and `facts` are those of the latest connection."""

    def __init__(self, target: Target, client: AgentClient, facts: HostFacts) -> None:
        self.target = target
        self.client = client
        self.facts = facts

    @classmethod
    async def open(cls, target: Target) -> Connection:
        """Raises what connecting raises."""
        try:
            return cls(target, *await target.connect())
        except BaseException:
            await target.close()
            raise

    @classmethod
    async def open_if_running(cls, target: Target) -> Connection | None:
        found = None
        try:
            found = await target.connect_if_running()
        finally:
            if found is None:
                await target.close()
        return cls(target, *found) if found is not None else None

    async def reconnect(self) -> None:
        """After AgentGone: one try. Raises what connecting raises."""
        await self.client.close()
        self.client, self.facts = await self.target.connect(again=True)

    async def close(self) -> None:
        await self.client.close()
        await self.target.close()


def import_client() -> type[AgentClient]:
    """The class, with gRPC: half of the start of a command, so it is fetched while others work."""
    was_enabled = gc.isenabled()
    gc.disable()  # an import makes no garbage
    try:
        from .client import AgentClient
    finally:
        if was_enabled:
            gc.enable()
    return AgentClient


def backoff_s() -> Iterator[float]:
    """How long to wait before each further try, in seconds: doubled, with jitter, bounded."""
    delay_s = FIRST_BACKOFF_S
    while True:
        yield delay_s * random.uniform(0.5, 1.0)
        delay_s = min(delay_s * 2, LONGEST_BACKOFF_S)
