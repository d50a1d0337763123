"""`devloop gpus`: the box's GPUs, who uses them, and which are free. Decides neither."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

from .common import config_of, open_connection, say, where
from .runs import table
from .words import duration, printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from devloop.sync.gpus import Gpu, Gpus

__all__ = ["as_json", "describe", "run"]

HEADER = ["GPU", "NAME", "MEMORY", "LOAD", "USED BY"]
COMMAND_CHARS = 60
GIB = 1 << 30


class GpusUnavailable(DevloopError):
    """There is a driver, and it does not say what GPUs there are."""

    hint = "try `nvidia-smi` on the box"


def run(args: argparse.Namespace) -> int:
    """Lists the GPUs of the box where runs happen."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    async with open_connection(config, start=True) as connection:
        found = await connection.client.list_gpus()
    if found.is_unavailable:
        raise GpusUnavailable(f"the GPUs cannot be listed: {found.detail}")
    if args.json:
        sys.stdout.write(json.dumps(as_json(found)) + "\n")
    elif found.gpus:
        sys.stdout.write(printable(describe(found.gpus, now_s=time.time())))
    else:
        say(f"no NVIDIA GPUs {where(connection.target)}: {found.detail}")
    return 0


def as_json(found: Gpus) -> dict[str, object]:
    """{"gpus": […], "detail": "why there are none"}; the fields are those of sync's `Gpu`."""
    return {"gpus": [_gpu_object(gpu) for gpu in found.gpus], "detail": found.detail}


def _gpu_object(gpu: Gpu) -> dict[str, object]:
    return gpu._asdict() | {
        "is_free": gpu.is_free,
        "holder": gpu.holder and gpu.holder._asdict(),
        "processes": [process._asdict() for process in gpu.processes],
        "slices": [_gpu_object(part) for part in gpu.slices],
    }


def describe(gpus: Sequence[Gpu], *, now_s: float) -> str:
    """A table: a row a GPU or slice, and one more for each further user of it."""
    rows: list[list[str]] = [HEADER]
    for gpu in gpus:
        for unit in (gpu, *gpu.slices):
            rows += _rows(unit, now_s)
    return table(rows)


def _rows(gpu: Gpu, now_s: float) -> list[list[str]]:
    first, *more = _users(gpu, now_s)
    used, total = gpu.memory_used_bytes / GIB, gpu.memory_total_bytes / GIB
    memory = f"{used:.1f} / {total:.1f} GiB" if total else "-"
    load = "-" if ":" in gpu.label else f"{gpu.utilization_percent:.0f} %"
    blank = [""] * (len(HEADER) - 1)
    return [[gpu.label, gpu.name, memory, load, first], *([*blank, user] for user in more)]


def _users(gpu: Gpu, now_s: float) -> list[str]:
    if gpu.is_divided:
        return ["divided into slices" if gpu.slices else "divided, and has no slices"]
    if gpu.holder is None:
        return list(gpu.users) or ["free"]
    since_s = max(now_s - gpu.holder.since_ns / 1e9, 0)
    held = f", for {duration(since_s)}" if gpu.holder.since_ns else ""
    programs = [_shortened(p.command) + f" (pid {p.pid})" for p in gpu.processes if p.computes]
    return [f"{user}{held}" for user in gpu.users] + programs


def _shortened(command: str) -> str:
    return command if len(command) <= COMMAND_CHARS else command[: COMMAND_CHARS - 1] + "…"
