"""The verbs about the agent: down, doctor, version."""

from __future__ import annotations

import asyncio
import platform
import sys
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError
from devloop.cafs.version import VERSION
from devloop.sync import local
from devloop.sync.session import workspace_of

from .common import config_of, say
from .words import size

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import HostFacts

__all__ = ["doctor", "down", "version"]


class DidNotEnd(DevloopError):
    """The agent was told to end, and is still there."""

    hint = "its log is agent.log in the folder that `devloop doctor` shows"


def down(args: argparse.Namespace) -> int:
    """Ends the agent, and its runs with it."""
    return asyncio.run(_down())


async def _down() -> int:
    found = await local.connect_if_running()
    if found is None:
        say("no agent runs here")
        return 0
    client, facts = found
    try:
        ended_runs = await client.shutdown(stop_runs=True)
    finally:
        await client.close()
    if not await local.wait_until_ended():
        raise DidNotEnd(f"the agent (pid {facts.agent_pid}) does not end")
    count = "1 live run" if len(ended_runs) == 1 else f"{len(ended_runs)} live runs"
    runs = f", and {count} with it" if ended_runs else ""
    say(f"the agent has ended{runs}")
    return 0


def version(args: argparse.Namespace) -> int:
    """Prints the versions of this client and of the agent that runs, if one does."""
    sys.stdout.write(f"devloop {VERSION}\n")
    found = asyncio.run(_facts())
    if found is not None:
        sys.stdout.write(f"agent {found.agent_version} on {found.hostname}\n")
    return 0


async def _facts() -> HostFacts | None:
    found = await local.connect_if_running()
    if found is None:
        return None
    client, facts = found
    await client.close()
    return facts


def doctor(args: argparse.Namespace) -> int:
    """Says what works here, and what would make it better. Exits 1 when something does not."""
    return asyncio.run(_doctor(args))


async def _doctor(args: argparse.Namespace) -> int:
    report = Report()
    report.ok("client", f"devloop {VERSION}, Python {platform.python_version()}")
    idle_timeout_s = 1800.0
    try:
        config = config_of(args, will_sync=False)
        idle_timeout_s = config.agent.idle_timeout_s
        source = config.source_file or "no devloop.toml; `devloop init` writes one"
        report.ok("project", f"{config.root} ({source})")
        report.ok("workspace", workspace_of(config.root).id)
    except DevloopError as error:
        report.bad("project", error)
    try:
        client, facts = await local.connect(idle_timeout_s)
        await client.close()
    except DevloopError as error:
        report.bad("agent", error)
    else:
        _report_agent(report, facts)
    return 1 if report.failed else 0


def _report_agent(report: Report, facts: HostFacts) -> None:
    report.ok(
        "agent", f"devloop {facts.agent_version}, pid {facts.agent_pid}, {dirs.socket_path()}"
    )
    report.ok(
        "box",
        f"{facts.hostname}: {facts.os} {facts.machine}, {facts.cpus} cores, "
        f"{size(facts.memory_bytes)} memory, Python {facts.python}",
    )
    report.ok("state", f"{facts.state_dir}, {size(facts.disk_free_bytes)} free")
    if facts.isolation_hint:
        report.note("runs", f"each in a {facts.isolation}", facts.isolation_hint)
    else:
        report.ok("runs", f"each in a {facts.isolation} of its own")


class Report:
    """Lines of a report on stdout, as they are found."""

    def __init__(self) -> None:
        self.failed = False

    def ok(self, what: str, words: str) -> None:
        sys.stdout.write(f"✓ {what:<10} {words}\n")

    def note(self, what: str, words: str, hint: str) -> None:
        sys.stdout.write(f"! {what:<10} {words}\n  {'':<10} hint: {hint}\n")

    def bad(self, what: str, error: DevloopError) -> None:
        self.failed = True
        sys.stdout.write(f"✗ {what:<10} {error}\n")
        if error.hint:
            sys.stdout.write(f"  {'':<10} hint: {error.hint}\n")
