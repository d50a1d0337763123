"""The process that owns one container, from its first mount to the end of its last process.

Everything of a container is bound to this process by the kernel: its mounts are in a mount
namespace of its own, the first process inside reads a socket that only this one holds open, and the
runtime's records are on a tmpfs that nobody else sees. So a SIGKILL here leaves nothing but the
folder of the writable layer, which the agent removes (`pool`). It ends with its agent, whose socket
it reads.

The agent starts it ahead of time: it loads what it needs and waits for its one job.

    ahead     {server}                  a file server will be needed: {command, env, ahead}; it
                                        may load. At most once
    image     {image}                   what it will serve: {store, index, profile}; after `ahead`
    job       {folder, upper, image, root, workspace, targets, user, records, config, runtime,
               kind, program, cgroup, limits, groups, victim_score, capabilities, seccomp,
               namespaces, hosts, inside: [folder], files: [name]}
               + fds [control of the spawner inside, questions, log]; made by `job`
    → started {pause, identity} + fds [pidfd of the first process, pidfd of the spawner inside]
    → failed  {message, hint}
    → served  {line}                    what the file server says of itself, JSON
    → opened  {} + fds [file]           what was opened so far: paths, each with a NUL after it
    → ending  {why}                     of itself, and not by order; its end follows
    abort     {}                        readers of files that nobody serves get an error
    recorded  {}                        ends the recording; answered by `opened`
    end       {}
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from devloop.cafs.errors import DevloopError
from devloop.cafs.mount import enter_private_namespace
from devloop.cafs.mount.namespace import is_first_user_namespace
from devloop.remote_agent.zygote import contain, hunt, kernel, wire

from . import cgroups, layers, locked, roots
from .fileserver import FileServer
from .identity import identity_of, show_workspace
from .inside import Inside, start_inside
from .recorder import OpenRecorder

__all__ = ["main"]

# It reads files of the image, for each of which a tier may take its time (`job.DEADLINE_S`).
_RUNTIME_TIMEOUT_S = 45.0
# For the kernel to end every process of a container; then readers of a dead file server are freed.
_END_S = 2.0
_AFTER_ABORT_S = 3.0
_LOG_BYTES = 4096


class NotStarted(DevloopError):
    """This box does not start that container."""

    hint = "`devloop doctor` says what this box allows"


class Keeper:
    def __init__(
        self,
        agent: socket.socket,
        job: dict[str, Any],
        fds: list[int],
        ahead: FileServer | None,
    ) -> None:
        self._agent = agent
        self._job = job
        self._fds = fds
        self._stage = Path(job["folder"]) / "stage"
        self._ahead = ahead
        self._server: FileServer | None = None
        self._recorder: OpenRecorder | None = None
        self._pause = 0
        self._pause_fd = self._spawner_fd = -1
        self._life, self._pauses_end = socket.socketpair()

    def start(self) -> None:
        """Raises OSError or DevloopError; `end` is to be called in any case."""
        job = self._job
        kernel.become_subreaper()
        self._take_layer()
        joins = cgroups.open_groups(job["cgroup"], job["groups"])
        if self._ahead is None:
            enter_private_namespace()
        self._prepare_stage()
        self._mount_root()
        if job["records"]:
            with contextlib.suppress(OSError):  # without, the next start elsewhere is slower
                self._recorder = OpenRecorder(str(self._stage / "root"))
        identity = identity_of(self._stage / "root", job["user"])
        show_workspace(Path(job["workspace"]), self._stage / "workspace", identity)
        roots.check_targets(self._stage / "root", job["targets"])
        _show_cgroup2(job["kind"])
        self._pause = pause = self._run_runtime()
        self._pause_fd = os.pidfd_open(pause)
        cgroups.join(joins, pause)
        self._spawner_fd = os.pidfd_open(self._start_inside(joins))
        for fd in (*joins, *self._fds):
            os.close(fd)
        pidfds = [self._pause_fd, self._spawner_fd]
        started = {"event": "started", "pause": pause, "identity": identity}
        wire.send(self._agent, started, pidfds)

    def watch(self) -> str:
        """Returns why the container must end."""
        poll = select.poll()
        for fd in (self._agent.fileno(), self._pause_fd, self._spawner_fd):
            poll.register(fd, select.POLLIN)
        if self._server is not None:
            self._server.tell_first(self._say)
            poll.register(self._server.says, select.POLLIN)
        recorder = -1
        if self._recorder is not None:
            recorder = self._recorder.fileno()
            poll.register(recorder, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd in (self._pause_fd, self._spawner_fd):
                    return self._who_was_killed()
                if fd == recorder:
                    if self._recorder is not None:
                        self._recorder.take()
                elif fd != self._agent.fileno():
                    assert self._server is not None
                    if not self._server.tell(self._say):
                        return "its file server has ended"
                elif not self._obey():
                    return ""
                elif self._recorder is None and recorder >= 0:
                    poll.unregister(recorder)
                    recorder = -1
                    break  # what else is ready may be the recorder, which is closed

    def _who_was_killed(self) -> str:
        """The first process takes all others along, and ends after them."""
        if hunt.is_exiting(self._pause):
            return "its first process was killed"
        return "the spawner in it was killed"

    def pass_on(self) -> None:
        """What the file server has said by now: why a file of the start could not be read."""
        if self._server is None:
            return
        poll = select.poll()
        poll.register(self._server.says, select.POLLIN)
        while poll.poll(0) and self._server.tell(self._say):
            pass

    def end(self) -> None:
        """Returns when nothing of the container is left, or what is left cannot be ended."""
        if self._pause_fd >= 0:
            self._kill_and_wait()
        for server in (self._server, self._ahead):
            if server is not None:
                server.close()
        # A runtime that hung has children of its own, with the mounts in namespaces of theirs.
        end_s = time.monotonic() + _END_S
        hunt.end_descendants(lambda: hunt.reap_all() and time.monotonic() < end_s)

    def _kill_and_wait(self) -> None:
        """The namespace's first process ends when all others in it are reaped: the spawner is this
        process's child."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pause_fd, signal.SIGKILL)
        if self._reaped(_END_S) or self._server is None:
            return
        self._server.abort()
        self._reaped(_AFTER_ABORT_S)

    def _reaped(self, timeout_s: float) -> bool:
        """False when something of the container still lives."""
        for fd in (self._spawner_fd, self._pause_fd):
            if fd >= 0:
                if not _ended(fd, timeout_s):
                    return False
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, fd, os.WEXITED)
        return True

    def _obey(self) -> bool:
        """False when the container is to end: by order, or because the agent is gone."""
        received = wire.receive(self._agent)
        if received is None or received.message["op"] == "end":
            return False
        if received.message["op"] == "abort" and self._server is not None:
            self._server.abort()
        if received.message["op"] == "recorded":
            self._tell_opened()
        return True

    def _tell_opened(self) -> None:
        paths = self._recorder.close() if self._recorder is not None else []
        self._recorder = None
        with tempfile.TemporaryFile() as file:
            file.write(b"".join(path + b"\0" for path in paths))
            file.seek(0)
            wire.send(self._agent, {"event": "opened"}, [file.fileno()])

    def _say(self, message: dict[str, Any]) -> None:
        wire.send(self._agent, message)

    # -- steps of the start

    def _take_layer(self) -> None:
        if self._job["upper"] is not None:
            layers.take(Path(self._job["upper"]), **self._job["image"])

    def _prepare_stage(self) -> None:
        stage, job = self._stage, self._job
        stage.mkdir(exist_ok=True)
        locked.mount(
            "devloop", str(stage), "tmpfs", locked.MS_NOSUID | locked.MS_NODEV, "mode=0700"
        )
        for name in ("root", "bundle", "state", "files", "inside", "workspace"):
            (stage / name).mkdir()
        inside = stage / "inside"
        inside.chmod(0o755)
        for name in job["inside"]:
            (inside / name).mkdir(parents=True, exist_ok=True)
        for name in job["files"]:
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            (inside / name).touch()
        (stage / "hosts").write_text(job["hosts"])
        pause = inside / "pause"
        pause.write_bytes(bytes.fromhex(job["program"]))
        pause.chmod(0o555)
        (stage / "bundle" / "config.json").write_text(json.dumps(job["config"]))

    def _mount_root(self) -> None:
        folder = Path(self._job["upper"] or self._job["folder"])
        upper, work = folder / "upper", folder / "work"
        for path in (upper, work):
            path.mkdir(exist_ok=True)
        upper.chmod(0o755)
        root = self._job["root"]
        served = None
        if root.get("server"):
            served = self._stage / "files"
            self._server = self._server_for(root["server"]["order"])
            self._server.serve(root["server"]["request"], served)
        volatile = self._job["upper"] is None
        roots.mount(root, served, upper, work, self._stage / "root", volatile=volatile)

    def _server_for(self, order: dict[str, Any]) -> FileServer:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.is_for(order):
            return ahead
        if ahead is not None:
            ahead.close()
        return FileServer(order)

    def _run_runtime(self) -> int:
        """The pid of the container's first process."""
        stage, job = self._stage, self._job
        pid_file = stage / "pid"
        argv = [job["runtime"], "--root", str(stage / "state")]
        if job["kind"] == "crun":
            argv.append("--cgroup-manager=disabled")
        argv += ["run", "--detach", "--no-new-keyring", "--pid-file", str(pid_file)]
        argv += ["--bundle", str(stage / "bundle"), job["cgroup"].strip("/")]
        log = os.memfd_create("devloop-runtime", os.MFD_CLOEXEC)
        status = _run(argv, self._pauses_end.fileno(), log, self._agent.fileno())
        self._pauses_end.close()
        if status:
            raise NotStarted(f"{job['kind']} does not start the container: {_said(log)}")
        os.close(log)
        pause = int(pid_file.read_text())
        self._reap_helpers(pause)
        return pause

    def _reap_helpers(self, pause: int) -> None:
        """The runtime's own: the last of them ends just after it."""
        servers = [server.pid for server in (self._server, self._ahead) if server is not None]
        for pid in set(hunt.children_of(os.getpid())) - {pause, *servers}:
            pidfd = os.pidfd_open(pid)
            if _ended(pidfd, _END_S):
                os.waitpid(pid, 0)
            os.close(pidfd)

    def _start_inside(self, joins: list[int]) -> int:
        job = self._job
        control, questions, log = self._fds
        inside = Inside(
            control=socket.socket(fileno=os.dup(control)),
            questions=socket.socket(fileno=os.dup(questions)),
            log=log,
            capabilities=job["capabilities"],
            seccomp=bytes.fromhex(job["seccomp"]),
            limits=job["limits"],
            victim_score=job["victim_score"],
            namespaces=job["namespaces"],
            joins=joins,
        )
        try:
            return start_inside(self._pause_fd, inside)
        finally:
            inside.control.close()
            inside.questions.close()


def _show_cgroup2(kind: str) -> None:
    """crun refuses hybrid cgroups where it sees them, and has nothing to do with any here."""
    if kind == "crun" and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        flags = locked.MS_NOSUID | locked.MS_NODEV | locked.MS_NOEXEC
        with contextlib.suppress(OSError):
            if not is_first_user_namespace():  # only its own group can be shown there
                kernel.unshare(locked.CLONE_NEWCGROUP)
            locked.mount("none", "/sys/fs/cgroup", "cgroup2", flags)


def _run(argv: list[str], stdin: int, log: int, agent: int) -> int:
    """The exit status. It is killed when it takes too long, and when the agent has something to
    say or is gone: there is only one thing to be said before a start is over."""
    pid = os.fork()
    if pid == 0:
        _become_runtime(argv, stdin, log)
    pidfd = os.pidfd_open(pid)
    if not _ended(pidfd, _RUNTIME_TIMEOUT_S, agent):
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    return os.waitpid(pid, 0)[1]


def _become_runtime(argv: list[str], stdin: int, log: int) -> NoReturn:
    """Not even a killed keeper leaves it behind."""
    try:
        contain.die_with_parent()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        for target, fd in enumerate((stdin, null, log)):
            os.dup2(fd, target)
        os.execve(argv[0], argv, {"PATH": os.defpath, "LC_ALL": "C"})
    except OSError as error:
        os.write(log, str(error).encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _ended(pidfd: int, timeout_s: float, other: int = -1) -> bool:
    """False when it takes too long, or when `other` can be read before."""
    poll = select.poll()
    for fd in {pidfd, other} - {-1}:
        poll.register(fd, select.POLLIN)
    end = time.monotonic() + timeout_s
    while not (found := poll.poll(max(0.0, end - time.monotonic()) * 1000)):
        if time.monotonic() >= end:
            break
    return pidfd in dict(found)


def _said(log: int) -> str:
    size = os.fstat(log).st_size
    text = os.pread(log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def main(control_fd: int) -> NoReturn:
    agent = socket.socket(fileno=control_fd)
    agent.set_inheritable(False)
    received, ahead = wire.receive(agent), None
    while received is not None and (order := received.message.get("op")):
        if order == "ahead":
            enter_private_namespace()
            ahead = FileServer(received.message["server"])
        elif ahead is not None:
            ahead.announce(received.message["image"])
        received = wire.receive(agent)
    if received is None:
        os._exit(0)
    keeper = Keeper(agent, *received, ahead)
    try:
        keeper.start()
        if why := keeper.watch():
            wire.send(agent, {"event": "ending", "why": why})
    except (OSError, DevloopError) as error:
        hint = getattr(error, "hint", NotStarted.hint)
        with contextlib.suppress(OSError):
            keeper.pass_on()
            wire.send(agent, {"event": "failed", "message": str(error), "hint": hint})
    finally:
        keeper.end()
    os._exit(0)
