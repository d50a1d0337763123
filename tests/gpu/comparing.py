"""What the GPU pane shows beside what nvidia-smi says of the same box, field by field.

Reads the pane's text as a person would, and nvidia-smi's as CSV. Asks neither.
"""

from __future__ import annotations

import csv
import re
from typing import NamedTuple

__all__ = ["APPS", "GPUS", "TOLERANCES", "Shown", "differences", "read_pane"]

# The columns of `nvidia-smi --query-gpu` and `--query-compute-apps`, without header and units.
GPUS = (
    *("index", "name", "utilization.gpu", "memory.used", "memory.total"),
    *("temperature.gpu", "power.draw", "enforced.power.limit"),
)
APPS = ("gpu_name", "pid", "used_memory")

MIB_PER_G = 1e9 / (1 << 20)  # of the pane's gigabytes
# How far two looks a second apart may differ, beyond what the pane rounds off.
TOLERANCES = {
    "utilization.gpu": 40.0,  # percent; the driver's own mean is over up to a second
    "memory.used": 128.0,  # MiB
    "memory.total": 2.0,
    "temperature.gpu": 5.0,  # °C
    "power.draw": 80.0,  # W
    "enforced.power.limit": 1.0,
    "used_memory": 64.0,  # MiB, of a process
}
ROUNDED = {"G": 0.05 * MIB_PER_G, "T": 50 * MIB_PER_G, "M": 0.5, "k": 0.5}
UNITS_MIB = {"B": 1e-6, "k": 1e-3, "M": 1e6 / (1 << 20), "G": MIB_PER_G, "T": 1e3 * MIB_PER_G}

_GPU = re.compile(r"^(\d+) (\S.*?)(?:  throttled: .*)?$")
_VALUES = {
    "utilization.gpu": re.compile(r"^ util +(\d+)%"),
    "temperature.gpu": re.compile(r"^ temp +(\d+)°C"),
    "power.draw": re.compile(r"^ power +(\d+)(?:/\d+)?W"),
    "enforced.power.limit": re.compile(r"^ power +\d+/(\d+)W"),
}
_MEMORY = re.compile(r"^ mem +([\d.]+)/([\d.]+)([kMGT])")
_PROCESS = re.compile(r"^[▶ ] *(\d+) (\S*) +(?:\?|([\d.]+)([BkMGT])) ")


class Shown(NamedTuple):
    """One GPU's block. Memory in MiB; what is not shown is not there."""

    index: str
    name: str
    values: dict[str, float]
    unit: str  # of its memory
    processes: dict[str, tuple[float, float]]  # by pid: MiB, and how far that is rounded


def read_pane(lines: list[str]) -> list[Shown]:
    """Of each GPU, up to the host's part."""
    gpus: list[Shown] = []
    for line in lines:
        if line.startswith("host"):
            break
        if title := _GPU.match(line.rstrip()):
            gpus.append(Shown(title[1], title[2], {}, "G", {}))
        elif gpus:
            gpus[-1] = _with_line(gpus[-1], line)
    return gpus


def _with_line(gpu: Shown, line: str) -> Shown:
    for field, pattern in _VALUES.items():
        if found := pattern.match(line):
            gpu.values[field] = float(found[1])
    if found := _MEMORY.match(line):
        unit = UNITS_MIB[found[3]]
        gpu.values["memory.used"] = float(found[1]) * unit
        gpu.values["memory.total"] = float(found[2]) * unit
        return gpu._replace(unit=found[3])
    if found := _PROCESS.match(line):
        size, rounded = float(found[3] or 0), found[4] or "B"
        # Three digits are shown: the last one is half as much off as it stands for.
        step = 10.0 ** -(3 - len(found[3].partition(".")[0])) if found[3] else 0.0
        gpu.processes[found[1]] = size * UNITS_MIB[rounded], step * UNITS_MIB[rounded]
    return gpu


def differences(shown: list[Shown], gpus_csv: str, apps_csv: str = "") -> list[str]:
    """In words, one a field; empty: all is as nvidia-smi has it."""
    theirs = [dict(zip(GPUS, row, strict=True)) for row in _rows(gpus_csv)]
    if len(theirs) != len(shown):
        return [f"{len(shown)} GPUs are shown, nvidia-smi lists {len(theirs)}"]
    pairs = list(zip(shown, theirs, strict=True))
    found = [words for ours, row in pairs for words in _gpu_differences(ours, row)]
    apps = [dict(zip(APPS, row, strict=True)) for row in _rows(apps_csv)]
    return found + [words for app in apps for words in _app_differences(shown, app)]


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines(), skipinitialspace=True))


def _gpu_differences(ours: Shown, row: dict[str, str]) -> list[str]:
    found = []
    for field, text in (("index", ours.index), ("name", ours.name)):
        if text != row[field].removeprefix("NVIDIA "):
            found.append(f"GPU {ours.index} {field}: {text} is shown, it is {row[field]}")
    for field in GPUS[2:]:
        value = ours.values.get(field)
        rounded = ROUNDED[ours.unit] if field.startswith("memory") else 0.5
        if not _is_close(value, row[field], TOLERANCES[field] + rounded):
            found.append(f"GPU {ours.index} {field}: {value} is shown, it is {row[field]}")
    return found


def _app_differences(shown: list[Shown], app: dict[str, str]) -> list[str]:
    pid, theirs = app["pid"], app["used_memory"]
    places = [gpu.processes[pid] for gpu in shown if pid in gpu.processes]
    if not places:
        return [f"process {pid} is not shown"]
    if any(_is_close(size, theirs, TOLERANCES["used_memory"] + off) for size, off in places):
        return []
    return [f"process {pid}: {places[0][0]:.0f} MiB are shown, it holds {theirs}"]


def _is_close(ours: float | None, theirs: str, tolerance: float) -> bool:
    """What nvidia-smi cannot say, as "[N/A]", is shown as nothing or 0."""
    if theirs.startswith("["):
        return not ours
    return ours is not None and abs(ours - float(theirs)) <= tolerance
