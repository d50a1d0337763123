"""The verbs about the agent: down, doctor, version."""

from __future__ import annotations

import asyncio
import platform
import sys
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError
from devloop.cafs.version import VERSION
from devloop.sync.local import LocalTarget
from devloop.sync.target import Connection

from .common import config_of, say, target_of, where, workspace_ref
from .words import size

if TYPE_CHECKING:
    import argparse

    from devloop.sync.model import HostFacts
    from devloop.sync.target import Target
    from devloop.sync.upkeep import Abilities, Ability, Verified

__all__ = ["doctor", "down", "version"]

DEFAULT_IDLE_TIMEOUT_S = 1800.0  # where the configuration cannot be read


class DidNotEnd(DevloopError):
    """The agent was told to end, and is still there."""

    hint = "its log is agent.log in the folder that `devloop doctor` shows"


def down(args: argparse.Namespace) -> int:
    """Ends the agent, and its runs with it."""
    return asyncio.run(_down(target_of(config_of(args, will_sync=False))))


async def _down(target: Target) -> int:
    try:
        return await _end_agent(target)
    finally:
        await target.forget()


async def _end_agent(target: Target) -> int:
    connection = await Connection.open_if_running(target)
    if connection is None:
        say(f"no agent runs {where(target)}")
        return 0
    try:
        ended_runs = await connection.client.shutdown(stop_runs=True)
        if not await target.wait_until_ended():
            raise DidNotEnd(f"the agent (pid {connection.facts.agent_pid}) does not end")
    finally:
        await connection.close()
    count = "1 live run" if len(ended_runs) == 1 else f"{len(ended_runs)} live runs"
    runs = f", and {count} with it" if ended_runs else ""
    say(f"the agent has ended{runs}")
    return 0


def version(args: argparse.Namespace) -> int:
    """Prints the versions of this client and of the agent that runs, if one does."""
    sys.stdout.write(f"devloop {VERSION}\n")
    try:
        found = asyncio.run(_facts(target_of(config_of(args, will_sync=False))))
    except DevloopError:  # which box is meant cannot be known, or it cannot be reached
        found = None
    if found is not None:
        sys.stdout.write(f"agent {found.agent_version} on {found.hostname}\n")
    return 0


async def _facts(target: Target) -> HostFacts | None:
    connection = await Connection.open_if_running(target)
    if connection is None:
        return None
    await connection.close()
    return connection.facts


def doctor(args: argparse.Namespace) -> int:
    """Says what works here, and what would make it better. Exits 1 when something does not."""
    return asyncio.run(_doctor(args))


async def _doctor(args: argparse.Namespace) -> int:
    report = Report()
    report.ok("client", f"devloop {VERSION}, Python {platform.python_version()}")
    try:
        config = config_of(args, will_sync=False)
        source = config.source_file or "no devloop.toml; `devloop init` writes one"
        report.ok("project", f"{config.root} ({source})")
        report.ok("workspace", workspace_ref(config).id)
        target = target_of(config)
    except DevloopError as error:
        report.bad("project", error)
        target = LocalTarget(DEFAULT_IDLE_TIMEOUT_S)
    try:
        connection = await Connection.open(target)
        try:
            _report_agent(report, target, connection.facts)
            _report_abilities(report, await connection.client.abilities())
            if args.repair:
                _report_store(report, await connection.client.verify_store())
        finally:
            await connection.close()
    except DevloopError as error:
        report.bad("agent", error)
    return 1 if report.failed else 0


def _report_agent(report: Report, target: Target, facts: HostFacts) -> None:
    reached = str(dirs.socket_path()) if target.is_local else f"over SSH to {target.name}"
    report.ok("agent", f"devloop {facts.agent_version}, pid {facts.agent_pid}, {reached}")
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


def _report_abilities(report: Report, found: Abilities) -> None:
    """None of it is a failure: only who names an image needs it."""
    report.ability("images", found.images, "mounted as {}", "cannot be mounted")
    report.ability("lazy", found.lazy, "missing files of images come through {}", "off")
    report.ability("containers", found.containers, f"{{}}; {found.gpus}", "none starts")
    if found.missing_limits:
        names = ", ".join(found.missing_limits)
        hint = "give the agent's user these cgroup controllers, or start it outside of a container"
        report.note("limits", f"none of {names} in containers", hint)


def _report_store(report: Report, found: Verified) -> None:
    if not found.damaged:
        report.ok("store", f"{found.blobs:,} blobs, none of them damaged")
        return
    words = f"{found.damaged:,} of {found.blobs:,} blobs were damaged, and are dropped"
    report.note("store", words, "the next sync sends them again; check the disk (dmesg)")
    for problem in found.problems:
        sys.stdout.write(f"  {'':<10} {problem}\n")


class Report:
    """Lines of a report on stdout, as they are found."""

    def __init__(self) -> None:
        self.failed = False

    def ok(self, what: str, words: str) -> None:
        sys.stdout.write(f"✓ {what:<10} {words}\n")

    def ability(self, what: str, found: Ability, words: str, without: str) -> None:
        """`words` has a place for how it is done."""
        told = words.format(found.name) if found.name else without
        if found.why:
            self.note(what, f"{told}: {found.why}", found.hint)
        else:
            self.ok(what, told)

    def note(self, what: str, words: str, hint: str) -> None:
        sys.stdout.write(f"! {what:<10} {words}\n")
        if hint:
            sys.stdout.write(f"  {'':<10} hint: {hint}\n")

    def bad(self, what: str, error: DevloopError) -> None:
        self.failed = True
        sys.stdout.write(f"✗ {what:<10} {error}\n")
        if error.hint:
            sys.stdout.write(f"  {'':<10} hint: {error.hint}\n")
