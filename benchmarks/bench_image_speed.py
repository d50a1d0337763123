"""Programs and files in a container, beside the same on the plain unpacked directory."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from .base_images import torch_image
from .figures import Bound, Samples, Section
from .image_peers import drop_page_cache, start_registry, unpack
from .sandbox import Broken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .plan import Bench

__all__ = ["bench_image_speed"]

RUN_LIMIT, WALK_LIMIT, READ_LIMIT = 1.03, 0.8, 0.9

# Runs inside, by the image's Python: what a client or a chroot costs is not in its figures.
DRIVER = """
import json, os, subprocess, sys, time

def run(*argv):
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began

def walk():
    began, count = time.perf_counter(), 0
    for folder, _, files in os.walk("/usr"):
        for name in files:
            os.lstat(f"{folder}/{name}")
            count += 1
    return count / (time.perf_counter() - began)

def read(path):
    began = time.perf_counter()
    size = 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            size += len(data)
    return size / 1e6 / (time.perf_counter() - began)

what, *rest = sys.argv[1:]
if what == "warm":
    for _ in range(2):
        run("python3", "-c", "import torch"), walk()
    found = {
        "torch": [run("python3", "-c", "import torch") for _ in range(int(rest[0]))],
        "small": [run("python3", "-c", "import json, argparse") for _ in range(4 * int(rest[0]))],
        "walk": [walk() for _ in range(int(rest[0]))],
    }
else:
    found = {"read": [read(rest[0])]}
print(json.dumps(found))
"""


def bench_image_speed(bench: Bench) -> Section:
    image = torch_image()
    section = Section("image-speed", "programs and files of an image that is here")
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    with bench.sandbox() as sandbox:
        registry = start_registry(sandbox, image)
        bundle, _ = unpack(sandbox, registry.reference, "peer")
        largest = _largest(bundle.root)
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        (project / "driver.py").write_text(DRIVER)
        (bundle.root / "driver.py").write_text(DRIVER)
        (project / "devloop.toml").write_text(f'image = "{registry.reference}"\n')
        exec_ = [agent.command, "exec", "-q", "--no-warm", "--"]
        agent.exec(project, "true")
        for _ in range(max(2, bench.syncs)):
            for words in (["warm", "3"], ["read", largest]):
                if words[0] == "read":
                    drop_page_cache()
                native = bundle.chroot("python3", "/driver.py", *words)
                _add(theirs, _inside(native, sandbox.root, sandbox.env))
                if words[0] == "read":
                    drop_page_cache()
                command = [*exec_, "python3", "driver.py", *words]
                _add(ours, _inside(command, project, agent.env))
    units = {"torch": "s", "small": "s", "walk": "files/s", "read": "MB/s"}
    pairs = {
        key: (
            Samples(f"{key}, in the container", unit, ours[key]),
            Samples(f"{key}, plain directory", unit, theirs[key]),
        )
        for key, unit in units.items()
    }
    for pair in pairs.values():
        section.samples += pair
    ratio = {key: pair[0].p50 / pair[1].p50 for key, pair in pairs.items()}
    section.bounds += [
        Bound("import torch, warm", ratio["torch"], RUN_LIMIT),
        Bound("a small program, warm", ratio["small"], RUN_LIMIT),
        Bound("walk and stat", ratio["walk"], WALK_LIMIT, at_least=True),
        Bound("cold sequential read of the largest file", ratio["read"], READ_LIMIT, at_least=True),
    ]
    return section


def _inside(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> dict[str, list[float]]:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"{' '.join(argv)}: {done.stderr[-800:]}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _add(figures: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    for key, values in more.items():
        figures.setdefault(key, []).extend(values)


def _largest(root: Path) -> str:
    files = (path for path in root.rglob("*.so*") if path.is_file() and not path.is_symlink())
    return "/" + str(max(files, key=lambda path: path.stat().st_size).relative_to(root))
