"""Save → first line over SSH, beside the embedded agent and what people use today; and afar."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from .bench_saves import TRIVIAL, measure, new_watcher, stages
from .figures import Bound, Samples, Section, quantile
from .sandbox import Skipped, timed
from .sshd import ALIAS, start_box
from .watchers import SCRIPT, list_files, start_devloop, start_entr

if TYPE_CHECKING:
    from .plan import Bench
    from .sandbox import Sandbox
    from .sshd import Way
    from .watchers import Watcher

__all__ = ["bench_far_saves", "bench_ssh_saves", "bench_ssh_start"]

FILES = 200
DELAY_S = 0.010  # in each direction
ROUND_TRIP_MS = 2000 * DELAY_S
RSYNC_RATIO, ENTR_RATIO, MORE_MS, ROUND_TRIPS = 1 / 15, 1 / 2, 10.0, 3.0


def bench_ssh_saves(bench: Bench) -> Section:
    section = Section("ssh-save", f"save → first line of {TRIVIAL.name}, over SSH, {FILES} files")
    with bench.sandbox() as sandbox:
        box = start_box(sandbox)
        over = _devloop(bench, sandbox, "over SSH", box.way())
        embedded = _devloop(bench, sandbox, "embedded", None)
        local = start_entr(sandbox, _watcher(bench, sandbox, "entr -r python3 -u, local"))
        rsync = _rsync(bench, sandbox, box.shared_way())
        times = measure(bench, [over, embedded, local, rsync])
        section.samples += [Samples(name, "ms", values) for name, values in times.items()]
        for watcher in (over, embedded):
            section.samples += stages(watcher, times[watcher.name])
    p50 = {name: quantile(values, 0.5) for name, values in times.items()}
    ours = p50[over.name]
    section.bounds += [
        Bound("devloop / entr + rsync + ssh", ours / p50[rsync.name], RSYNC_RATIO),
        Bound("devloop / local entr", ours / p50[local.name], ENTR_RATIO),
        Bound("more than embedded", ours - p50[embedded.name], MORE_MS, "ms"),
    ]
    return section


def bench_far_saves(bench: Bench) -> Section:
    """The same wire twice, with and without a delay: what the wire itself costs drops out."""
    far = f"{ROUND_TRIP_MS:g} ms away"
    section = Section("ssh-far", f"save → first line of {TRIVIAL.name}, {far}")
    with bench.sandbox() as sandbox:
        box = start_box(sandbox)
        watchers = [
            _devloop(bench, sandbox, name, box.wired_way(name.replace(" ", "-"), delay_s))
            for name, delay_s in (("near", 0.0), (far, DELAY_S))
        ]
        times = measure(bench, watchers)
        section.samples += [Samples(name, "ms", values) for name, values in times.items()]
        for watcher in watchers:
            section.samples += stages(watcher, times[watcher.name])
    near, away = (quantile(times[watcher.name], 0.5) for watcher in watchers)
    trips = (away - near) / ROUND_TRIP_MS
    section.bounds.append(Bound("round trips of a cycle", trips, ROUND_TRIPS))
    return section


def bench_ssh_start(bench: Bench) -> Section:
    """A kept connection, as when commands follow each other; and a first one."""
    section = Section("ssh-start", "a command that does nothing, on a warm agent over SSH")
    with bench.sandbox() as sandbox:
        way = start_box(sandbox).way()
        project = sandbox.directory("project")
        (project / "main.py").write_text("pass\n")
        agent, local = sandbox.agent("a", **way.env()), sandbox.agent("l")
        true = ["exec", "--", "true"]
        no_persist = {**agent.env, "DEVLOOP_SSH_PERSIST": "0"}
        subjects = {
            "devloop exec -- true": ([agent.command, *true], agent.env),
            "the same, connecting each time": ([agent.command, *true], no_persist),
            "the same, embedded": ([agent.command, *true], local.env),
            f"ssh {ALIAS} true, no ControlMaster": ([*way.words(), "true"], sandbox.env),
        }
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for turn in range(3 + bench.starts):
            for name, (argv, env) in subjects.items():
                took = timed(argv, cwd=project, env=env)
                if turn >= 3:
                    times[name].append(1000 * took)
    section.samples += [Samples(name, "ms", values) for name, values in times.items()]
    kept, fresh, _, peer = (quantile(values, 0.5) for values in times.values())
    section.bounds.append(Bound("devloop / ssh", kept / peer, 1.0))
    section.notes.append(f"connecting each time it is {fresh / peer:.2f} times ssh")
    return section


def _of_another_size(token: str) -> str:
    """rsync -a takes a file for unchanged that was saved in the same second at the same size."""
    return TRIVIAL(token) + "#" * (int(token[-6:]) % 100)


def _watcher(bench: Bench, sandbox: Sandbox, name: str) -> Watcher:
    return new_watcher(bench, sandbox, name, TRIVIAL, FILES)


def _devloop(bench: Bench, sandbox: Sandbox, name: str, way: Way | None) -> Watcher:
    """An agent of its own on this machine, or the one of the box."""
    short = name.partition(" ")[0][:4]
    agent = sandbox.agent(f"a-{short}", **(way.env() if way is not None else {}))
    watcher = _watcher(bench, sandbox, f"devloop up --plain, {name}")
    return start_devloop(sandbox, watcher, agent)


def _rsync(bench: Bench, sandbox: Sandbox, way: Way) -> Watcher:
    """What people type: on each save rsync, then the command through ssh."""
    for name in ("entr", "rsync"):
        if shutil.which(name) is None:
            raise Skipped(f"{name} is not installed: apt-get install {name}")
    name = "entr + rsync -a + ssh, ControlMaster"
    watcher = new_watcher(bench, sandbox, name, _of_another_size, FILES)
    there = shlex.quote(str(sandbox.directory("there")))
    ssh = shlex.join(way.words()[:-1])
    command = (
        f"rsync -a -e {shlex.quote(ssh)} ./ {ALIAS}:{there}/ && "
        f"{ssh} {ALIAS} {shlex.quote(f'cd {there} && exec {shlex.join(SCRIPT)}')}"
    )
    watcher.start(
        sandbox, ["entr", "-n", "-r", "sh", "-c", command], sandbox.env, list_files(watcher)
    )
    return watcher
