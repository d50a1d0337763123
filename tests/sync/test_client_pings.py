"""A link that is dead and says nothing: gRPC's own pings tell, whatever carries them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from devloop.sync.agent_errors import AgentGone
from devloop.sync.client import AgentClient

if TYPE_CHECKING:
    from pathlib import Path

NOTICED_WITHIN_S = 16.0


class _NeverAnswers(grpc.GenericRpcHandler):
    """Any call, and without end: only pings can tell that the other side is gone."""

    def __init__(self) -> None:
        self.is_called = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._wait)

    async def _wait(self, request: bytes, context: Any) -> bytes:
        self.is_called.set()
        await asyncio.Event().wait()
        return b""


class _Silenced:
    """Carries bytes between two sockets until it is told to carry no more."""

    def __init__(self, target: Path) -> None:
        self.is_silent = asyncio.Event()
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            self._tasks.add(asyncio.create_task(self._copy(source, target)))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(target):
            while data := await source.read(1 << 16):
                if not self.is_silent.is_set():
                    target.write(data)


async def test_a_link_that_says_nothing_is_noticed_within_16_s(tmp_path: Path) -> None:
    handler = _NeverAnswers()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{tmp_path / 's'}")
    await server.start()
    relay = _Silenced(tmp_path / "s")
    listening = await asyncio.start_unix_server(relay.serve, tmp_path / "r")
    client = AgentClient(tmp_path / "r", over_link=True)
    try:
        calling = asyncio.create_task(client.hello())
        await handler.is_called.wait()
        relay.is_silent.set()
        with pytest.raises(AgentGone):
            async with asyncio.timeout(NOTICED_WITHIN_S):
                await calling
    finally:
        await client.close()
        listening.close()
        await server.stop(grace=0)
