"""A box that is reached over SSH, as a target: link, agent and gRPC channel put together.

Owns the order in which they come and go. `connect.py` makes the link, `bridge.py` leads to the
agent and has it installed where it is not, `gateway.py` lets gRPC in.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from devloop.sync.target import AgentEnded, OtherVersion, import_client

from .bridge import open_bridge, wait_until_gone
from .connect import connect, end_kept
from .errors import SshError
from .gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from devloop.sync.client import AgentClient
    from devloop.sync.model import HostFacts

    from .bridge import Bridge, BridgeOptions, Mode
    from .connect import SshOptions
    from .install import InstallProgress
    from .link import Link, Prompter

__all__ = ["SshTarget"]

HELLO_TIMEOUT_S = 20.0
AGAIN_TIMEOUT_S = 2.0  # a try that meets a dead link must not keep the next one from a living one


class SshTarget:
    """See `target.Target`."""

    is_local = False

    def __init__(
        self,
        name: str,
        options: SshOptions,
        *,
        bridge: BridgeOptions,
        prompter: Prompter | None = None,
        on_progress: Callable[[InstallProgress], None] = lambda _: None,
    ) -> None:
        """`bridge`: for an agent that this starts; its mode is ours to choose."""
        self.name = name
        self._options = options
        self._bridge_options = bridge
        self._prompter = prompter
        self._on_progress = on_progress
        self._link: Link | None = None
        self._bridge: Bridge | None = None

    async def connect(self, *, again: bool = False) -> tuple[AgentClient, HostFacts]:
        """Installs the agent where it is not, and replaces an idle one of another build.

        Raises SshErrors, BoxErrors, AgentEnded, OtherVersion.
        """
        found = await self._connect("again" if again else "start")
        if found is None:
            raise AgentEnded(f"the agent on {self.name} was ended by `devloop down`")
        if self._bridge is not None and not (again or self._bridge.is_ours):
            await self._replace(*found)
            found = await self._connect("start")
            assert found is not None, "a bridge that starts the agent is never without one"
        return found

    async def connect_if_running(self) -> tuple[AgentClient, HostFacts] | None:
        return await self._connect("find")

    async def wait_until_ended(self) -> bool:
        await self._close_bridge()
        return self._link is None or await wait_until_gone(self._link, self.name)

    async def close(self) -> None:
        await self._close_bridge()
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def forget(self) -> None:
        with contextlib.suppress(SshError):  # who cannot connect has kept nothing
            await end_kept(self.name, self._options)

    async def _connect(self, mode: Mode) -> tuple[AgentClient, HostFacts] | None:
        # Nobody waits for it but who uses it: a connection may fail first.
        client_type = asyncio.get_running_loop().run_in_executor(None, import_client)
        await self._close_bridge()
        if self._link is None or self._link.lost.is_set() or mode == "again":
            await self.close()
            options, prompter = self._options, self._prompter
            if mode == "again":
                options = options._replace(connect_timeout_s=AGAIN_TIMEOUT_S)
                prompter = None
            self._link = await connect(self.name, options, prompter, again=mode == "again")
        return await self._open(self._link, mode, client_type)

    async def _open(
        self, link: Link, mode: Mode, client_type: asyncio.Future[type[AgentClient]]
    ) -> tuple[AgentClient, HostFacts] | None:
        await self._close_bridge()
        options = self._bridge_options._replace(mode=mode)
        # The bridge comes first: gRPC gives a new connection 20 s to say something.
        self._bridge = await open_bridge(link, self.name, options, self._on_progress)
        if self._bridge is None:
            return None
        make_client = await client_type
        with Gateway() as gateway:
            client = make_client(gateway.path, over_link=True)
            hello = asyncio.create_task(client.hello(timeout_s=HELLO_TIMEOUT_S))
            try:
                self._bridge.carry(await gateway.accept())
                return client, await hello
            except BaseException:
                hello.cancel()
                await asyncio.gather(hello, return_exceptions=True)
                await client.close()
                raise

    async def _replace(self, client: AgentClient, facts: HostFacts) -> None:
        """Of another build, and idle. Raises OtherVersion where it has live runs."""
        bridge = self._bridge
        live = await client.shutdown(stop_runs=False)
        await client.close()
        if live:
            if bridge is None or bridge.agent_build == "-":
                raise OtherVersion(f"on {self.name}", facts.agent_version, live)
            # Two builds of one version are told apart by more than the version.
            raise OtherVersion(f"on {self.name}", bridge.agent_build, live, bridge.own_build)
        await self.wait_until_ended()

    async def _close_bridge(self) -> None:
        if self._bridge is not None:
            await self._bridge.close()
            self._bridge = None
