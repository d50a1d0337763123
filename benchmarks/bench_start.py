"""What a command through a warm agent costs, beside the import that any gRPC client pays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .figures import Bound, Samples, Section
from .sandbox import timed

if TYPE_CHECKING:
    from .plan import Bench

__all__ = ["bench_start"]

LIMIT = 2.0
WARM_UP = 3


def bench_start(bench: Bench) -> Section:
    section = Section("start", "a command that does nothing, on a warm agent")
    with bench.sandbox() as sandbox:
        agent, project = sandbox.agent("a"), sandbox.directory("project")
        (project / "main.py").write_text("pass\n")
        # devloop's own interpreter: the comparison is with what its client is made of.
        subjects = {
            "devloop exec -- true": [agent.command, "exec", "--", "true"],
            "python3 -c 'import grpc'": [sys.executable, "-c", "import grpc"],
            "python3 -c pass": [sys.executable, "-c", "pass"],
        }
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for turn in range(WARM_UP + bench.starts):
            for name, argv in subjects.items():
                took = timed(argv, cwd=project, env=agent.env)
                if turn >= WARM_UP:
                    times[name].append(1000 * took)
    ours, peer, floor = (Samples(name, "ms", values) for name, values in times.items())
    section.samples += [ours, peer, floor]
    section.bounds.append(Bound("devloop exec -- true / import grpc", ours.p50 / peer.p50, LIMIT))
    return section
