"""`devloop clean`: what projects take on the box, and giving it back.

The agent removes; this side says what is lost with it, and asks. Outputs that no pull has brought
are named first, since nothing else holds them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError
from devloop.sync.agent_errors import RemoteError
from devloop.sync.outputs import ledger_path, never_pulled
from devloop.sync.session import workspace_of

from .common import config_of, open_connection, say, workspace_ref
from .errors import UsageError
from .words import printable, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from devloop.sync.client import AgentClient
    from devloop.sync.model import Output, WorkspaceRef
    from devloop.sync.upkeep import Taken, Usage, WorkspaceUsage

__all__ = ["is_bytecode", "is_gone", "run"]

EMPTY_BYTES = 100_000  # four containers take less in which nothing was written
NAMED = 10  # of the outputs that would be lost


class InUse(DevloopError):
    """The workspace cannot be removed now."""

    exit_code = 1


def run(args: argparse.Namespace) -> int:
    """Shows what is kept on the box, and removes it when that is confirmed."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    async with open_connection(config, start=True) as connection:
        client = connection.client
        usage, chosen = await _choose(client, workspace_ref(config), args)
        for workspace in chosen:
            await _describe(client, workspace)
        _print_shared(usage)
        if args.dry_run:
            return 0
        what = _what_goes(usage, chosen, args)
        if not what:
            say(f"no {_wanted(args)} to remove on {connection.facts.hostname}")
        elif not _is_confirmed(what, assume_yes=args.yes):
            return 1
        return await _clean(client, chosen, what, args)


def _wanted(args: argparse.Namespace) -> str:
    wanted = {"layer": args.layers, "cache": args.caches}
    return " or ".join(name for name, is_wanted in wanted.items() if is_wanted) or "workspace"


async def _choose(
    client: AgentClient, own: WorkspaceRef, args: argparse.Namespace
) -> tuple[Usage, list[WorkspaceUsage]]:
    """Of many, those in use are left alone; one that was meant itself is an error."""
    if not (args.all or args.gone):
        usage = await _usage_of(client, own.id)
        if args.layers or args.caches:
            return usage, []
        for workspace in usage.workspaces:
            if (why := _why_in_use(workspace)) and not args.dry_run:
                raise InUse(f"{workspace.name} is in use: {why}", hint=_end_it(workspace))
        return usage, usage.workspaces
    usage = await client.usage()
    chosen = []
    for workspace in sorted(usage.workspaces, key=lambda found: -found.size_bytes):
        if args.gone and not is_gone(workspace):
            continue
        if why := _why_in_use(workspace):
            say(f"left alone: {workspace.name}, since {why}")
        else:
            chosen.append(workspace)
    return usage, chosen


async def _usage_of(client: AgentClient, workspace_id: str) -> Usage:
    try:
        return await client.usage(workspace_id)
    except RemoteError as error:
        if error.kind != "NoSuchWorkspace":
            raise
    return (await client.usage())._replace(workspaces=[])


def is_gone(workspace: WorkspaceUsage) -> bool:
    """Was its project on this machine, of this user, and is its folder there no more?"""
    if not workspace.origin:
        return False
    root = Path(os.fsdecode(workspace.origin))
    return workspace_of(root, is_local=False).id == workspace.id and not root.exists()


def _why_in_use(workspace: WorkspaceUsage) -> str:
    if workspace.live_runs:
        return f"run {', '.join(map(str, workspace.live_runs))} is live"
    return "a `devloop up` of it is open" if workspace.is_followed else ""


def _end_it(workspace: WorkspaceUsage) -> str:
    return "`devloop stop` ends it" if workspace.live_runs else "leave it, then try again"


# -- what would be lost


def _print_shared(usage: Usage) -> None:
    limit = size(usage.store_limit_bytes)
    _print(f"store      {size(usage.store_bytes)} of at most {limit}, shared by all projects")
    for layer in usage.layers:
        image = f", begun on {layer.image}" if layer.image else ""
        _print(f"layer      {size(layer.size_bytes)} in {layer.name}{image}")
    if usage.caches_bytes:
        _print(f"caches     {size(usage.caches_bytes)} of runs in images")
    if usage.live_bytes > EMPTY_BYTES:
        _print(f"containers {size(usage.live_bytes)}, until `devloop down` or half an hour's rest")


def _what_goes(
    usage: Usage, chosen: Sequence[WorkspaceUsage], args: argparse.Namespace
) -> dict[str, int]:
    """What it is called, and its size."""
    what = {workspace.name: workspace.size_bytes for workspace in chosen}
    if args.layers:
        what |= {f"layer {layer.name}": layer.size_bytes for layer in usage.layers}
    if args.caches and usage.caches_bytes:
        what["caches"] = usage.caches_bytes
    return what


async def _describe(client: AgentClient, workspace: WorkspaceUsage) -> None:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(workspace.used_ns / 1e9))
    _print(f"{workspace.name}: {size(workspace.size_bytes)}, last used {when}")
    origin = os.fsdecode(workspace.origin) or "not known"
    _print(f"  project  {origin}{', which is gone' if is_gone(workspace) else ''}")
    shared = workspace.files.shared_bytes
    in_store = f", {size(shared)} of it shared with the store" if shared else ""
    _print(f"  files    {_taken(workspace.files)}{in_store}")
    _print(f"  runs     {_taken(workspace.runs)}")
    if workspace.aside.files:
        _print(f"  aside    {_taken(workspace.aside)}, changed on the box and kept")
    _print_lost(await _never_pulled(client, workspace))


def _taken(taken: Taken) -> str:
    return f"{size(taken.size_bytes)} in {_files(taken.files)}"


async def _never_pulled(client: AgentClient, workspace: WorkspaceUsage) -> list[Output]:
    made = await client.list_outputs(workspace.id, ["*"])
    return [o for o in never_pulled(workspace.id, made) if not is_bytecode(o.path)]


def is_bytecode(path: bytes) -> bool:
    return path.endswith(b".pyc") or b"__pycache__" in path.split(b"/")


def _print_lost(lost: Sequence[Output]) -> None:
    if not lost:
        return
    size_bytes = sum(output.size_bytes for output in lost)
    _print(f"  made by runs and never pulled: {_files(len(lost))}, {size(size_bytes)}")
    for output in lost[:NAMED]:
        _print(f"    {os.fsdecode(output.path)}  {size(output.size_bytes)}")
    if len(lost) > NAMED:
        _print(f"    and {len(lost) - NAMED:,} more")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _print(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


# -- removal


def _is_confirmed(what: Mapping[str, int], *, assume_yes: bool) -> bool:
    """Raises UsageError where there is nobody to ask."""
    if assume_yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "devloop clean: nothing was removed, since there is nobody to ask",
            hint="`devloop clean --yes` removes it, `devloop clean -n` only shows it",
        )
    named = next(iter(what)) if len(what) == 1 else f"these {len(what)}: {', '.join(what)}"
    total = size(sum(what.values()))
    sys.stderr.write(printable(f"Remove all that the box holds of {named}, {total}? [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _clean(
    client: AgentClient,
    chosen: Sequence[WorkspaceUsage],
    what: Mapping[str, int],
    args: argparse.Namespace,
) -> int:
    ids = [workspace.id for workspace in chosen]
    cleaned = await client.clean(ids, layers=args.layers, caches=args.caches)
    for path in cleaned.left:
        say(f"could not be deleted: {path}")
    _forget_caches(workspace.id for workspace in chosen if is_gone(workspace))
    given_back = f"{size(cleaned.freed_bytes)} given back"
    if gone := [name for name in what if not _is_left(name, cleaned.left)]:
        say(f"removed {', '.join(gone)}: {given_back}")
    elif cleaned.freed_bytes:
        say(f"removed what no project needs: {given_back}")
    return 1 if cleaned.left else 0


def _is_left(name: str, left: Sequence[str]) -> bool:
    return any(path.startswith(f"{name}: ") for path in left)


def _forget_caches(workspace_ids: Iterable[str]) -> None:
    """What this side remembers of projects that are gone."""
    for workspace_id in workspace_ids:
        ledger = ledger_path(workspace_id)
        for path in (
            dirs.cache_dir() / "stat" / workspace_id,
            ledger,
            ledger.with_suffix(".lock"),
        ):
            path.unlink(missing_ok=True)
