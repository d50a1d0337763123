"""`scripts/bench loop|ssh|image|tui`: measures every line of "how fast", and prints a table.

An exit code other than 0 means that something could not be measured, never that it was slow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .bench_first_sync import bench_large_file, bench_small_files
from .bench_idle import bench_idle
from .bench_image_cold import bench_image_cold
from .bench_image_ingest import bench_image_ingest
from .bench_image_speed import bench_image_speed
from .bench_image_start import bench_image_start
from .bench_saves import bench_imports, bench_live, bench_sizes
from .bench_ssh_files import bench_ssh_cat, bench_ssh_change, bench_ssh_large, bench_ssh_small
from .bench_ssh_saves import bench_far_saves, bench_ssh_saves, bench_ssh_start
from .bench_start import bench_start
from .bench_stream import bench_stream
from .bench_tui import (
    bench_tui_flood,
    bench_tui_idle,
    bench_tui_log,
    bench_tui_paint,
    bench_tui_save,
)
from .figures import Section
from .interpreters import make_environment
from .machine import facts
from .plan import Bench
from .projects import SAVES
from .sandbox import Broken, Skipped
from .table import section_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TORCH = "torch==2.13.0"

LOOP: Mapping[str, Callable[[Bench], Section]] = {
    "save": bench_sizes,
    "save-live": bench_live,
    "save-numpy": partial(bench_imports, requirement="numpy"),
    "save-torch": partial(bench_imports, requirement=TORCH),
    "sync-small": bench_small_files,
    "sync-large": bench_large_file,
    "start": bench_start,
    "stream": bench_stream,
    "idle": bench_idle,
}
SSH: Mapping[str, Callable[[Bench], Section]] = {
    "ssh-save": bench_ssh_saves,
    "ssh-far": bench_far_saves,
    "ssh-start": bench_ssh_start,
    "ssh-small": bench_ssh_small,
    "ssh-large": bench_ssh_large,
    "ssh-change": bench_ssh_change,
    "ssh-cat": bench_ssh_cat,
}
IMAGE: Mapping[str, Callable[[Bench], Section]] = {
    "image-start": bench_image_start,
    "image-speed": bench_image_speed,
    "image-ingest": bench_image_ingest,
    "image-cold": bench_image_cold,
}
TUI: Mapping[str, Callable[[Bench], Section]] = {
    "tui-paint": bench_tui_paint,
    "tui-save": bench_tui_save,
    "tui-log": bench_tui_log,
    "tui-flood": bench_tui_flood,
    "tui-idle": bench_tui_idle,
}
SUBJECTS = {"loop": LOOP, "ssh": SSH, "image": IMAGE, "tui": TUI}
SECTIONS = {key: measure for subject in SUBJECTS.values() for key, measure in subject.items()}
ONLY_WHEN_ASKED = {"save-torch"}


def main() -> int:
    args = _parse_args()
    signal.signal(signal.SIGTERM, _leave)  # so that what was started is ended
    folder = Path(tempfile.mkdtemp(prefix="devloop-bench-"))
    try:
        bench = Bench(make_environment(folder / "env"), args.save)
        return _run(_quick(bench) if args.quick else bench, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(bench: Bench, args: argparse.Namespace) -> int:
    machine = {**facts(), "save": bench.save, "quick": str(args.quick)}
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    chosen = args.only or [
        key
        for key in SUBJECTS[args.what]
        if key not in ONLY_WHEN_ASKED or (args.torch and key == "save-torch")
    ]
    sections, broken = [], 0
    for key in chosen:
        try:
            sections.append(_measured(key, bench))
        except Skipped as reason:
            print(f"\n{key}: skipped: {reason}")
        except Broken as reason:
            broken += 1
            print(f"\n{key}: broken: {reason}")
    if args.json:
        report = {"machine": machine, "sections": [section.as_json() for section in sections]}
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 1 if broken else 0


def _measured(key: str, bench: Bench) -> Section:
    load_before, began = os.getloadavg()[0], time.monotonic()
    section = SECTIONS[key](bench)
    section.load_before = load_before
    print("\n".join(section_lines(section)), flush=True)
    sys.stderr.write(f"bench: {key} took {time.monotonic() - began:.0f} s\n")
    return section


def _quick(bench: Bench) -> Bench:
    return replace(bench, saves=10, starts=8, syncs=1, streams=2, idle_s=10.0)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "what", choices=SUBJECTS, help="the loop here, or over SSH; images; the screen"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="one section; may be repeated"
    )
    parser.add_argument("--torch", action="store_true", help=f"also with {TORCH} (200 MB)")
    parser.add_argument("--save", choices=SAVES, default="write", help="how files are saved")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
