"""The calls of the protocol that carry TCP connections, with plain bytes in and out.

With `client.py` the only module of this half that knows gRPC. Knows no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc.aio

from devloop.proto.v1 import agent_pb2 as pb

from .agent_errors import AgentGone, RemoteError
from .client import call_errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from .ports import PortSpec

__all__ = ["MAX_DATA_BYTES", "Accepted", "Carrier", "accepted_on_box"]

MAX_DATA_BYTES = 256 << 10


class Accepted(NamedTuple):
    """A connection to a port of the box, to be taken up. `id` 0: the ports are open now."""

    id: int
    port_index: int = 0


class Carrier:
    """One connection's way to the box. Iterate it for what comes; b"" is the other side's end.

    The iteration ends by itself only when both sides have ended the connection.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    async def connect(self, host: str, port: int) -> None:
        """Does not wait: what stands in the way is raised by the iteration, as a RemoteError."""
        await self._write(pb.ForwardRequest(open=pb.ForwardOpen(host=host, port=port)))

    async def take_up(self, accepted: Accepted) -> None:
        await self._write(pb.ForwardRequest(open=pb.ForwardOpen(accepted=accepted.id)))

    async def refuse(self, accepted: Accepted) -> None:
        """Has the box's end reset: this side ends without having said so."""
        await self.take_up(accepted)
        with contextlib.suppress(RemoteError):
            with call_errors():
                await self._call.done_writing()
            async for _ in self:
                pass

    async def send(self, data: bytes) -> None:
        """At most MAX_DATA_BYTES. Returns when there is room for more."""
        await self._write(pb.ForwardRequest(data=data))

    async def end(self) -> None:
        await self._write(pb.ForwardRequest(eof=True))
        with call_errors():
            await self._call.done_writing()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with call_errors():
            async for reply in self._call:
                yield reply.data

    def close(self) -> None:
        """Unless both sides have ended it, the box's end is reset."""
        self._call.cancel()

    async def _write(self, request: pb.ForwardRequest) -> None:
        """Raises AgentGone, whatever ended the call: the iteration says what did."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            raise AgentGone("the agent has closed the call") from None


async def accepted_on_box(
    stub: Any, ports: Sequence[PortSpec], owner: str
) -> AsyncGenerator[Accepted, None]:
    """First one with the id 0, then what the box accepts; it listens as long as this is open.

    A newer one of the same owner ends the older one.
    """
    request = pb.ListenRequest(
        ports=[pb.ListenPort(host=spec.listen_host, port=spec.listen_port) for spec in ports],
        owner=owner,
    )
    with call_errors():
        call = stub.Listen(request)
    try:
        with call_errors():
            async for reply in call:
                yield Accepted(reply.accepted.id, reply.accepted.port_index)
    finally:
        call.cancel()
