"""A client whose connection was closed: each call says so as AgentGone, whatever gRPC calls it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devloop.cafs.digest import Digest
from devloop.sync.agent_errors import AgentGone
from devloop.sync.client import AgentClient
from devloop.sync.images import ImageSource
from devloop.sync.model import Output, WorkspaceRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

WORKSPACE = WorkspaceRef("demo-1", "demo")
DIGEST = Digest(bytes(32))


async def no_frames() -> AsyncIterator[Any]:
    return
    yield


async def first_of(stream: Any) -> None:
    async with contextlib.aclosing(stream):
        await anext(stream)


async def entered(attachment: Any) -> None:
    async with attachment:
        pass


async def forwarded(client: AgentClient) -> None:
    await client.carrier().connect("localhost", 80)


CALLS: dict[str, Callable[[AgentClient], Awaitable[object]]] = {
    "hello": lambda client: client.hello(),
    "missing": lambda client: client.missing([DIGEST]),
    "put": lambda client: client.put(iter(())),
    "put_ahead": lambda client: client.put_ahead(WORKSPACE, no_frames()),
    "apply": lambda client: client.apply(WORKSPACE, DIGEST),
    "list_outputs": lambda client: client.list_outputs("demo-1", ()),
    "read_output": lambda client: first_of(client.read_output("demo-1", OUTPUT, 0)),
    "metrics": lambda client: first_of(client.metrics(1.0)),
    "attach": lambda client: entered(client.attach("demo-1", 1)),
    "attach_to_owner": lambda client: entered(client.attach_to_owner(WORKSPACE, "me")),
    "carrier": forwarded,
    "accepted_on_box": lambda client: first_of(client.accepted_on_box((), "me")),
    "image ensure": lambda client: client.images().ensure(ImageSource("x"), lambda *_: None),
    "image push": lambda client: first_of(client.images().push("x", "file:///x")),
}
OUTPUT = Output(b"out", 1, 1, 0o644)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_over_a_closed_connection_says_that_the_agent_is_gone(name: str) -> None:
    client = AgentClient(Path("/nowhere/agent.sock"))
    await client.close()
    with pytest.raises(AgentGone):
        await CALLS[name](client)
