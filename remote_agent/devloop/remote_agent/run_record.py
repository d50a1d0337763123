"""What stays of a run: `run.json` in the run's own directory, beside the segments of its log.

Owns that format, which has no environment: that may hold secrets. Refuses to know which runs are
kept.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest

from .gpu_choice import Place
from .logs import RunLog
from .run import Run, RunEnd, RunSpec, RunState

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_record", "write_record"]


def write_record(run: Run, directory: Path) -> None:
    """A full disk costs the record, not the run."""
    record = {
        "number": run.number,
        "tree": run.tree.hex(),
        "argv": [os.fsdecode(arg) for arg in run.spec.argv],
        "shell": run.spec.shell,
        "reason": run.spec.reason,
        "outputs": run.spec.outputs,
        "state": run.state,
        "started_ns": run.started_ns,
        "first_output_ns": run.first_output_ns,
        "ended_ns": run.ended_ns,
        "start_kind": run.start_kind,
        "start_note": run.start_note,
        "end": asdict(run.end),
        "gpus": [asdict(place) for place in run.gpus],
    }
    path = directory / "run.json"
    temporary = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(record, ensure_ascii=True))
        temporary.replace(path)


def read_record(directory: Path) -> Run:
    """The run as it was; one that was live then is lost.

    Raises OSError, ValueError, KeyError or TypeError when the record cannot be used.
    """
    record = json.loads((directory / "run.json").read_text())
    spec = RunSpec(
        argv=tuple(os.fsencode(arg) for arg in record["argv"]),
        shell=record.get("shell", False),
        reason=record["reason"],
        outputs=tuple(record["outputs"]),
    )
    tree = Digest.fromhex(record["tree"])
    run = Run(record["number"], tree, spec, lambda: RunLog.open_existing(directory))
    run.started_ns = record["started_ns"]
    run.first_output_ns = record["first_output_ns"]
    run.ended_ns = record["ended_ns"]
    run.start_kind, run.start_note = record["start_kind"], record["start_note"]
    run.end = RunEnd(**record["end"])
    run.gpus = tuple(Place(**{**place, "users": ()}) for place in record.get("gpus", ()))
    if record["state"] != RunState.ENDED:
        run.end = RunEnd(exit_code=255, reason="lost: the agent was killed")
        run.ended_ns = run.started_ns
    run.state = RunState.ENDED
    run.ended.set()
    return run
