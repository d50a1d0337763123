"""A box that has never seen an image: from the command to the end of its program, over a slow link.

The image is in another box's store, which has run the program once; the peer copies it from a
registry, unpacks it and runs it. Both are behind a wire of 1 Gbit/s with a round trip of 10 ms.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from .base_images import torch_image
from .figures import Bound, Samples, Section
from .image_peers import Registry, drop_page_cache, start_registry, unpack
from .sandbox import Agent, timed
from .sshd import ALIAS, start_box, start_wire

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import Bench
    from .sandbox import Sandbox

__all__ = ["bench_image_cold"]

RATE, DELAY_S = 125e6, 0.005
PEER_LIMIT, IDEAL_LIMIT, TRUE_LIMIT_S = 0.2, 1.3, 1.0
PROGRAM = ("python3", "-c", "import torch")


def bench_image_cold(bench: Bench) -> Section:
    image = torch_image()
    section = Section("image-cold", "a box that has never seen the image; 1 Gbit/s, 10 ms")
    with bench.sandbox() as sandbox:
        registry = start_registry(sandbox, image)
        project = sandbox.directory("project")
        first = sandbox.agent("one")
        (project / "devloop.toml").write_text(f'image = "{registry.reference}"\n')
        touched_bytes = _note_profile(first, project)
        wired, _ = start_wire(sandbox, "registry", registry.port, DELAY_S, RATE)
        peer = [_peer(sandbox, Registry(wired), number) for number in range(2)]
        native = _native(sandbox, registry)
        store = f"ssh://{ALIAS}{sandbox.root}/one/state"
        (project / "devloop.toml").write_text(
            f'image = "{registry.reference}"\nstore = ["{store}"]\n'
        )
        path = _path_with_ssh(sandbox)
        ours: list[float] = []
        true: list[float] = []
        for number in range(max(2, bench.syncs // 2 + 1)):
            for times, argv in ((ours, PROGRAM), (true, ("true",))):
                box = sandbox.agent(f"b{number}{argv[0][0]}", PATH=path)
                timed(
                    [box.command, "exec", "-q", "--image", "host", "--", "true"],
                    cwd=project,
                    env=box.env,
                )
                times.append(box.exec(project, *argv))
                box.down()
        first.down()
    ideal_s = touched_bytes / RATE + native[-1]
    section.samples += [
        Samples("skopeo copy + umoci unpack + crun run", "s", peer),
        Samples("devloop exec -- python3 -c 'import torch'", "s", ours),
        Samples("  the same on the plain directory, cold cache", "s", native),
        Samples("devloop exec -- true", "s", true),
    ]
    section.notes.append(
        f"the profile names {touched_bytes / 1e6:.0f} MB: {touched_bytes / RATE:.2f} s of the link"
    )
    section.bounds += [
        Bound("devloop / skopeo + umoci + crun", section.samples[1].p50 / min(peer), PEER_LIMIT),
        Bound(
            "devloop / (bytes touched ÷ rate + native)",
            section.samples[1].p50 / ideal_s,
            IDEAL_LIMIT,
        ),
        Bound("true on a cold box", section.samples[3].p50, TRUE_LIMIT_S, "s"),
    ]
    return section


def _note_profile(agent: Agent, project: Path) -> int:
    """Bytes of it. Its program runs with nothing in the page cache: what is read is what counts."""
    agent.exec(project, "true")
    drop_page_cache()
    timed([agent.command, "down"], cwd=project, env=agent.env)
    agent.exec(project, *PROGRAM)
    deadline = time.monotonic() + 10
    folder = project.parent / "one/state/images/profiles"
    while time.monotonic() < deadline:
        if any(b'"python3"' in path.read_bytes()[:400] for path in folder.glob("*-*")):
            break
        time.sleep(0.1)
    out = project.parent / "inspected"
    with out.open("wb") as file:
        timed(
            [agent.command, "image", "inspect", "--json"], cwd=project, env=agent.env, stdout=file
        )
    profiles = json.loads(out.read_text())["profiles"]
    return max(int(profile["size_bytes"]) for profile in profiles)


def _peer(sandbox: Sandbox, registry: Registry, number: int) -> float:
    os.sync()
    began = time.perf_counter()
    bundle, _ = unpack(sandbox, registry.reference, f"p{number}")
    timed(bundle.crun(f"cold-{number}", *PROGRAM), cwd=sandbox.root, env=sandbox.env)
    return time.perf_counter() - began


def _native(sandbox: Sandbox, registry: Registry) -> list[float]:
    """Of the plain directory, the last of them with everything cached."""
    bundle, _ = unpack(sandbox, registry.reference, "native")
    drop_page_cache()
    command = bundle.chroot(*PROGRAM)
    return [timed(command, cwd=sandbox.root, env=sandbox.env) for _ in range(3)]


def _path_with_ssh(sandbox: Sandbox) -> str:
    """A PATH whose `ssh` reaches the other box through the wire."""
    way = start_box(sandbox).wired_way("far", DELAY_S, RATE)
    folder = sandbox.directory("bin")
    (folder / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {way.config} "$@"\n')
    (folder / "ssh").chmod(0o755)
    return f"{folder}:{sandbox.env['PATH']}"
