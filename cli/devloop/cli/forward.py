"""`devloop forward`, and the ports that `up` and `exec` forward while they run."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.sync.agent_errors import AgentGone
from devloop.sync.forward import Forwarder
from devloop.sync.target import AgentEnded, backoff_s

from .common import config_of, open_connection, say
from .errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Sequence

    from devloop.sync.forward import HasClient
    from devloop.sync.ports import PortSpec
    from devloop.sync.target import Connection

    from .config import Config

__all__ = ["forwarding", "run"]


def run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    specs = tuple(args.ports) or (() if args.reverse else config.ports)
    if not specs and not args.reverse:
        raise UsageError(
            "devloop forward: no port",
            hint="devloop forward 6006 8888:80; or set ports in devloop.toml",
        )
    _refuse_public(args.reverse)
    return asyncio.run(_forward(config, specs, tuple(args.reverse)))


def _refuse_public(reverse: Sequence[PortSpec]) -> None:
    for spec in reverse:
        if not spec.is_private:
            raise UsageError(
                f"devloop forward: -R {spec} would let other machines reach {spec.host}",
                hint="the box listens on its loopback addresses only: leave the first part out",
            )


async def _forward(
    config: Config, specs: tuple[PortSpec, ...], reverse: tuple[PortSpec, ...]
) -> int:
    async with (
        open_connection(config, start=True) as connection,
        Forwarder(connection, say_trouble) as forwarder,
    ):
        box = connection.facts.hostname
        for spec in specs:
            forwarder.listen(spec)
        for spec in specs:
            say(f"port {_listening(spec)} leads to port {spec.port} of {_there(spec, box)}")
        await _stay(connection, forwarder, reverse)
    return 0


async def _stay(
    connection: Connection, forwarder: Forwarder, reverse: tuple[PortSpec, ...]
) -> None:
    """Until Ctrl-C. Raises AgentEnded."""

    def listening() -> None:
        for spec in reverse:
            here = _there(spec, "this machine")
            box = connection.facts.hostname
            say(f"port {_listening(spec)} of {box} leads to port {spec.port} of {here}")

    while True:
        try:
            await forwarder.listen_on_box(reverse, listening)
        except AgentGone as error:
            say(f"{error}; connections to it are cut")
        await _reconnect(connection)
        say("connected again")


async def _reconnect(connection: Connection) -> None:
    said = ""
    for delay_s in backoff_s():
        await asyncio.sleep(delay_s)
        try:
            return await connection.reconnect()
        except AgentEnded:
            raise
        except DevloopError as error:
            if str(error) != said:
                said = str(error)
                say(f"{error}; trying again")
    raise AssertionError("there is always another try")


@contextlib.asynccontextmanager
async def forwarding(
    config: Config, connection: HasClient, tell: Callable[[str, str], None]
) -> AsyncIterator[None]:
    """The configured ports, meanwhile. A port that cannot be had is told, and stops nothing."""
    async with Forwarder(connection, tell) as forwarder:
        for spec in config.ports:
            try:
                forwarder.listen(spec)
            except DevloopError as error:
                tell(str(error), error.hint)
        yield


def say_trouble(text: str, hint: str) -> None:
    say(text)
    if hint:
        say(f"hint: {hint}")


def _listening(spec: PortSpec) -> str:
    return f"{spec.listen_port}" if spec.is_private else f"{spec.listen_host}:{spec.listen_port}"


def _there(spec: PortSpec, machine: str) -> str:
    return machine if spec.host == "localhost" else spec.host
