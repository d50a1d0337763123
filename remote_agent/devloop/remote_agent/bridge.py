"""Between an SSH channel and this user's agent: the program that a client runs on the box.

    python -I -S bridge.py start|again|find|gone [WORDS OF `serve` …]

Finds the agent's socket by the lock of its state directory, says one line, then copies stdin to the
socket and the socket to stdout until either ends. The line is one of

    devloop-here bridge BUILD       the agent's build; gRPC's bytes follow
    devloop-here absent             no agent runs: the answer to `find`, and to `gone` when true
    devloop-here ended              the agent was ended, rather than killed: `again` starts none
    devloop-here busy               `gone` has waited in vain for the agent's end
    devloop-here error JSON         {"message", "hint"}

after whatever the shell's start-up files printed. `start` starts the agent, by `bridge_start.py`.

Every connection waits for this program to start: it imports what the interpreter has loaded
anyway, and knows nothing of gRPC. It must not outlive the channel.
"""

import _socket  # `socket` costs as much as all the rest
import os
import sys

__all__ = ["MARKER", "find_agent", "has_ended", "main", "say", "state_dir"]

MARKER = "devloop-here"
PIECE_BYTES = 1 << 18
POLL_S = 0.01
ENDING_POLLS = 1500


def main(words: list[str]) -> None:
    """`words`: those after the program's name. May end the process, or become another program."""
    mode = words[0]
    if mode == "gone":
        say("absent" if _waits_for_its_end() else "busy")
        return
    found = find_agent()
    if found is not None:
        connection, build = found
        say(f"bridge {build}")
        _copy_both_ways(connection)
    elif mode == "find":
        say("absent")
    elif mode == "again" and has_ended():
        say("ended")
    else:
        start = ["-I", "-m", "devloop.remote_agent.bridge_start", *words]
        os.execv(sys.executable, [sys.executable, *start])


def say(words: str) -> None:
    line = os.fsencode(f"{MARKER} {words}\n")
    try:
        while line:
            line = line[os.write(1, line) :]
    except OSError:  # nobody listens any more
        os._exit(0)


def state_dir() -> str:
    """As `devloop.cafs.dirs`, which costs as much to import as all of this."""
    if explicit := os.environ.get("DEVLOOP_STATE_DIR"):
        return explicit
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return os.path.join(os.path.expanduser(base), "devloop")


def find_agent() -> tuple[_socket.socket, str] | None:
    """A connection to the agent that holds the state directory, and its build ("-": unknown).

    The socket is looked for where the holder says that it is: $XDG_RUNTIME_DIR may differ from
    session to session. One in a directory that is not the user's alone is not trusted.
    """
    lines = _lock_lines()
    if (
        lines is None
        or len(lines) < 2
        or lines[1] != os.uname().nodename
        or not _is_private(lines[0])
    ):
        return None
    build = lines[2] if len(lines) > 2 else "-"
    for name in ("bridge.sock", "agent.sock"):
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.connect(os.path.join(os.path.dirname(lines[0]), name))
        except OSError:  # a killed agent leaves its socket; an older one has but one
            connection.close()
        else:
            return connection, build
    return None


def _lock_lines() -> list[str] | None:
    try:
        fd = os.open(_lock_path(), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fsdecode(os.read(fd, 4096)).splitlines()
    finally:
        os.close(fd)


def _lock_path() -> str:
    return os.path.join(state_dir(), "agent.lock")


def has_ended() -> bool:
    """A killed agent leaves its words in the lock, and so does a machine that was restarted."""
    return _lock_lines() == []


def _waits_for_its_end() -> bool:
    """Until the lock is free: the socket is gone, and the runs with it."""
    import fcntl
    import time

    try:
        fd = os.open(_lock_path(), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    for _ in range(ENDING_POLLS):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(POLL_S)
    return False


def _is_private(socket: str) -> bool:
    try:
        found = os.lstat(os.path.dirname(socket))
    except OSError:
        return False
    is_directory = found.st_mode & 0o170000 == 0o040000
    return is_directory and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _copy_both_ways(connection: _socket.socket) -> None:
    """Ends the process when the agent ends the connection, or nobody reads stdout any more.

    The channel's end reaches stdin alone: the agent is told, and answers by its own end.
    """
    import _thread

    fd = connection.fileno()
    _thread.start_new_thread(_copy_to_the_end, (fd, 1))
    _copy(0, fd)
    try:
        connection.shutdown(_socket.SHUT_WR)
    except OSError:
        pass
    _wait_until_nobody_reads()


def _copy_to_the_end(source: int, target: int) -> None:
    _copy(source, target)
    os._exit(0)


def _copy(source: int, target: int) -> None:
    """Until the source ends, or the target does.

    Without splice: from a socket to a pipe it holds the pipe's lock while it waits for the socket,
    so that what is in the pipe already cannot be read.
    """
    try:
        while piece := os.read(source, PIECE_BYTES):
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
    except OSError:
        pass


def _wait_until_nobody_reads() -> None:
    import select

    poll = select.poll()
    poll.register(1, 0)  # errors and hang-ups are always told
    while not poll.poll():
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
