"""Follows a project as a session does, and prints what it knows: `python follower.py KIND ROOT`.

One line a scan: `tree <hex>`, or `gone`; before a full one `why <reason>`.
`limited <reason>` when the system hands out no more watches.
KIND is `best` (what this system has) or `notify` (watchfiles, as on a Mac).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from devloop.sync.ignore import Ignore
from devloop.sync.notify import NotifySource
from devloop.sync.scan import RootGone, Scanner
from devloop.sync.statcache import StatCache
from devloop.sync.watch import DirsChanged, ScanAll, WatchLimited, open_source, watch


def scanner(root: Path) -> Scanner:
    return Scanner(root, Ignore(root), StatCache(root.parent / "stat-cache"))


async def follow(kind: str, root: Path) -> None:
    looking = scanner(root)
    looking.scan()
    source = NotifySource if kind == "notify" else open_source
    async with contextlib.aclosing(watch(root, looking, open_source=source)) as hints:
        async for hint in hints:
            match hint:
                case WatchLimited(reason, next_step):
                    print(f"limited {reason}; {next_step}", flush=True)
                case DirsChanged(dirs):
                    await report(looking, dirs)
                case ScanAll(reason):
                    print(f"why {reason}", flush=True)
                    await report(looking, None)


async def report(looking: Scanner, dirs: frozenset[bytes] | None) -> None:
    try:
        if dirs is None:
            scan = await asyncio.to_thread(looking.scan)
        else:
            scan = await asyncio.to_thread(looking.rescan, dirs)
    except RootGone:
        print("gone", flush=True)
    else:
        print(f"tree {scan.tree.digest}", flush=True)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], Path(sys.argv[2])))
