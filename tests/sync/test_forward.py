"""Forwarded ports where there is no link; tests/e2e/test_forward.py has those with one."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from devloop.sync.client import AgentClient, AgentGone
from devloop.sync.forward import Forwarder, PortInUse
from devloop.sync.ports import parse_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Link:
    """To an agent that is not there."""

    def __init__(self, folder: Path) -> None:
        self.client = AgentClient(folder / "agent.sock")
        self.told: list[tuple[str, str]] = []

    def tell(self, text: str, hint: str) -> None:
        self.told.append((text, hint))


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(tmp_path)
    yield link
    await link.client.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def assert_reset(port: int) -> None:
    """It is accepted, and reset without a byte: at times before connect has returned."""
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(first_byte(port), 20)


async def first_byte(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read(1)
    finally:
        writer.close()


@pytest.mark.parametrize("is_closed", [False, True])
async def test_without_a_link_connections_are_reset_and_the_port_stays(
    link: Link, is_closed: bool
) -> None:
    port = free_port()
    if is_closed:  # as between two tries to come back
        await link.client.close()
    async with Forwarder(link, link.tell) as forwarder:
        forwarder.listen(parse_port(str(port)))
        for _ in range(3):
            await assert_reset(port)
    assert link.told == []  # of a lost link, its owner tells


async def test_listening_on_a_box_that_is_not_there_says_so(link: Link) -> None:
    async with Forwarder(link, link.tell) as forwarder:
        with pytest.raises(AgentGone):
            await forwarder.listen_on_box([parse_port("3000")], lambda: None)


async def test_a_port_is_given_back_when_the_forwarder_ends(link: Link) -> None:
    spec = parse_port(str(free_port()))
    for _ in range(2):
        async with Forwarder(link, link.tell) as forwarder:
            forwarder.listen(spec)
            with pytest.raises(PortInUse) as caught:
                forwarder.listen(spec)
            assert str(spec.port) in str(caught.value)
            assert caught.value.hint.endswith(f":{spec.port}")


async def test_an_address_that_is_not_this_machines_cannot_be_listened_on(link: Link) -> None:
    async with Forwarder(link, link.tell) as forwarder:
        with pytest.raises(PortInUse, match=r"cannot listen on port 3000 of 192\.0\.2\.1"):
            forwarder.listen(parse_port("192.0.2.1:3000:3000"))
