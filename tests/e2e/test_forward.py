"""`devloop forward` and `ports`: real connections through a real agent, both ways."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from .box import Tail, Up, wait_until
from .streams import (
    answer_digest,
    connect,
    digest_of_all,
    echo,
    free_port,
    read_all,
    reset,
    send_pieces,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .box import Box

LARGE_BYTES = (1 << 30) + 12345 if os.environ.get("DEVLOOP_SOAK") == "1" else (96 << 20) + 12345
MOST_MEMORY_BYTES = 64 << 20


class Forward:
    def __init__(self, box: Box, *words: str, project: Path | None = None) -> None:
        self.process = box.start(
            project or box.project(),
            *("forward", *words),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.talk = Tail(self.process.stderr)

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(10) == 130


@contextlib.contextmanager
def forwarding(box: Box, *words: str) -> Iterator[Forward]:
    forward = Forward(box, *words)
    forward.talk.wait_for("leads to")
    yield forward
    forward.close()


@contextlib.contextmanager
def forwarded_echo(box: Box) -> Iterator[int]:
    here = free_port()
    with serving(echo) as there, forwarding(box, f"{here}:{there}"):
        yield here


def test_bytes_go_both_ways(box: Box) -> None:
    with forwarded_echo(box) as port, connect(port) as sock:
        for word in (b"a", b"bb", bytes(100_000)):
            sock.sendall(word)
            assert receive(sock, len(word)) == word


def test_both_loopback_addresses_lead_to_the_box(box: Box) -> None:
    with forwarded_echo(box) as port, connect(port, "::1") as sock:
        sock.sendall(b"six")
        assert receive(sock, 3) == b"six"


def test_a_server_on_the_boxs_ipv6_loopback_is_reached(box: Box) -> None:
    here = free_port()
    with (
        serving(echo, address="::1") as there,
        forwarding(box, f"{here}:{there}"),
        connect(here) as sock,
    ):
        sock.sendall(b"six")
        assert receive(sock, 3) == b"six"


def test_a_host_of_the_box_can_be_named(box: Box) -> None:
    here = free_port()
    with (
        serving(echo, address="127.0.0.3") as there,
        forwarding(box, f"{here}:127.0.0.3:{there}"),
        connect(here) as sock,
    ):
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"


@pytest.mark.over_ssh
def test_a_large_upload_arrives_whole_and_is_answered_after_its_end(box: Box) -> None:
    """Half-close: the answer comes on a connection whose other half has ended."""
    here = free_port()
    with serving(answer_digest) as there, forwarding(box, f"{here}:{there}") as forward:
        before = memory(box, forward)
        with connect(here) as sock:
            sent = send_pieces(sock, LARGE_BYTES)
            assert read_all(sock).decode() == sent
        gained = memory(box, forward) - before
    print(f"{LARGE_BYTES >> 20} MiB carried, {gained >> 20} MiB of memory gained")
    assert gained < MOST_MEMORY_BYTES


def test_a_large_download_arrives_whole(box: Box) -> None:
    here, sent = free_port(), []
    with (
        serving(lambda sock: sent.append(send_pieces(sock, LARGE_BYTES))) as there,
        forwarding(box, f"{here}:{there}"),
        connect(here) as sock,
    ):
        digest = digest_of_all(sock)
        wait_until(lambda: sent)
        assert sent == [digest]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_reader_that_stalls_stalls_the_sender_and_costs_little_memory(
    box: Box, direction: str
) -> None:
    here, go_on, stalled = free_port(), threading.Event(), threading.Event()

    def stall(sock: socket.socket) -> None:
        go_on.wait(60)
        sock.sendall(digest_of_all(sock).encode())

    def flood(sock: socket.socket) -> None:
        sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                sock.sendall(bytes(1 << 20))
        stalled.set()

    with (
        serving(stall if direction == "up" else flood) as there,
        forwarding(box, f"{here}:{there}") as forward,
        connect(here) as sock,
    ):
        before = memory(box, forward)
        if direction == "up":
            flood(sock)
        assert stalled.wait(60)
        assert memory(box, forward) - before < MOST_MEMORY_BYTES
        go_on.set()


def test_two_hundred_connections_at_once(box: Box) -> None:
    with forwarded_echo(box) as port, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(port)) for _ in range(200)]
        for number, sock in enumerate(sockets):
            sock.sendall(b"%06d" % number)
        with ThreadPoolExecutor(8) as threads:
            heard = list(threads.map(lambda sock: receive(sock, 6), sockets))
        assert heard == [b"%06d" % number for number in range(200)]


def test_a_reset_here_is_a_reset_there(box: Box) -> None:
    here, seen = free_port(), []

    def note(sock: socket.socket) -> None:
        try:
            while data := sock.recv(10):
                sock.sendall(data)
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    with serving(note) as there, forwarding(box, f"{here}:{there}"):
        for end in (reset, socket.socket.close):
            sock = connect(here)
            sock.sendall(b"half of")
            assert receive(sock, 7) == b"half of"
            end(sock)
            wait_until(lambda: seen)
            assert seen.pop() == ("reset" if end is reset else "end")


@pytest.mark.over_ssh
def test_a_reset_there_is_a_reset_here(box: Box) -> None:
    def cut(sock: socket.socket) -> None:
        sock.recv(1)
        reset(sock)

    here = free_port()
    with serving(cut) as there, forwarding(box, f"{here}:{there}"), connect(here) as sock:
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_where_nothing_listens_the_connection_is_closed_and_one_line_says_so(box: Box) -> None:
    here, there = free_port(), free_port()
    with forwarding(box, f"{here}:{there}") as forward:
        for _ in range(3):
            assert_closed(here)
        with (
            serving(echo, port=there),
            connect(here) as sock,
        ):
            sock.sendall(b"now")
            assert receive(sock, 3) == b"now"
        assert_closed(here)
        words = f"{here}:{there}: nothing listens on port {there} of the box"
        forward.talk.wait_for(words, count=2)
        assert forward.talk.text.count(words) == 2  # once before it worked, once after


def test_a_host_that_the_box_cannot_find_is_told(box: Box) -> None:
    here = free_port()
    with forwarding(box, f"{here}:no-such-host.invalid:80") as forward:
        assert_closed(here)
        forward.talk.wait_for("cannot find the host no-such-host.invalid")


def test_a_port_in_use_here_is_an_error_that_names_a_free_one(box: Box) -> None:
    with serving(echo) as taken:
        done = box.run(box.project(), "forward", f"{taken}:80")
        done.assert_error(f"port {taken} is in use on this machine")
        found = done.stderr.splitlines()[-1].split()
        assert found[:2] == ["hint:", "port"]
        assert int(found[2]) > taken
        assert found[-1] == f"{found[2]}:80"


@pytest.mark.over_ssh
def test_ports_of_the_box_lead_here(box: Box) -> None:
    there = free_port()
    with (
        serving(echo) as here,
        forwarding(box, "-R", f"{there}:{here}"),
        connect(there) as sock,
        connect(there, "::1") as other,
    ):
        for one in (sock, other):
            one.sendall(b"from the box")
            assert receive(one, 12) == b"from the box"


def test_a_large_stream_from_the_box_arrives_whole(box: Box) -> None:
    there = free_port()
    with (
        serving(answer_digest) as here,
        forwarding(box, "-R", f"{there}:{here}"),
        connect(there) as sock,
    ):
        sent = send_pieces(sock, LARGE_BYTES // 8)
        assert read_all(sock).decode() == sent


def test_many_connections_from_the_box_at_once(box: Box) -> None:
    there = free_port()
    with (
        serving(echo) as here,
        forwarding(box, "-R", f"{there}:{here}"),
        contextlib.ExitStack() as stack,
    ):
        sockets = [stack.enter_context(connect(there)) for _ in range(200)]
        for number, sock in enumerate(sockets):
            sock.sendall(b"%06d" % number)
        assert [receive(sock, 6) for sock in sockets] == [b"%06d" % n for n in range(200)]


def test_where_nothing_listens_here_the_boxs_connection_is_closed(box: Box) -> None:
    here, there = free_port(), free_port()
    with forwarding(box, "-R", f"{there}:{here}") as forward:
        assert_closed(there)
        forward.talk.wait_for(f"nothing listens on port {here} of this machine")


def test_a_port_in_use_on_the_box_is_an_error(box: Box) -> None:
    with serving(echo) as taken:
        done = box.run(box.project(), "forward", "-R", f"{taken}:80")
        done.assert_error(f"the box cannot listen on port {taken}: Address already in use")


def test_the_box_listens_on_its_loopback_only(box: Box) -> None:
    done = box.run(box.project(), "forward", "-R", "0.0.0.0:3000:80")
    done.assert_error("would let other machines reach", code=2)


def test_other_machines_are_let_in_only_when_they_are_named(box: Box) -> None:
    here = free_port()
    for address, listens in (("", {"127.0.0.1", "::1"}), ("0.0.0.0:", {"0.0.0.0"})):
        with forwarding(box, f"{address}{here}:80") as forward:
            assert {one.laddr.ip for one in listening(forward)} == listens


def test_a_forward_works_again_after_its_agent_was_killed(own_box: Box) -> None:
    there, here, back = free_port(), free_port(), free_port()
    with serving(echo, port=there), serving(echo) as local:
        forward = Forward(own_box, f"{here}:{there}", "-R", f"{back}:{local}")
        forward.talk.wait_for("leads to", count=2)
        with connect(here) as open_before:
            open_before.sendall(b"x")
            assert receive(open_before, 1) == b"x"
            own_box.agent().kill()
            with pytest.raises(ConnectionResetError):
                open_before.recv(1)
        forward.talk.wait_for("connected again")
        forward.talk.wait_for("leads to port", count=3)
        for port in (here, back):
            with connect(port) as sock:
                sock.sendall(b"again")
                assert receive(sock, 5) == b"again"
        forward.close()


@pytest.mark.embedded
def test_a_forward_ends_when_the_agent_is_ended(own_box: Box) -> None:
    forward = Forward(own_box, str(free_port()))
    forward.talk.wait_for("leads to")
    assert own_box.run(own_box.base, "down").code == 0
    assert forward.process.wait(20) == 255
    forward.talk.wait_for("error: the agent was ended by `devloop down`")


def test_nothing_listens_any_more_when_a_forward_has_ended(box: Box) -> None:
    here, there = free_port(), free_port()
    with serving(echo) as local, forwarding(box, str(here), "-R", f"{there}:{local}") as forward:
        wait_until(lambda: listening(forward))
    for port in (here, there):
        wait_until(lambda port=port: refuses(port))


# -- `ports` of the project


def test_exec_forwards_the_ports_of_the_project(box: Box) -> None:
    here, there = free_port(), free_port()
    project = box.project(
        server=f"import socket\ns = socket.create_server(('', {there}))\nprint('up', flush=True)\n"
        "c, _ = s.accept()\nc.sendall(b'from the run')\n"
    )
    (project / "devloop.toml").write_text(f'ports = ["{here}:{there}"]\n')
    command = ("exec", "--", "python3", "server.py")
    process = box.start(project, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    Tail(process.stdout).wait_for("up")
    with connect(here) as sock:
        assert read_all(sock) == b"from the run"
    assert process.wait(10) == 0
    assert refuses(here)


def test_up_forwards_for_as_long_as_it_is_there(box: Box) -> None:
    here, there = free_port(), free_port()
    project = box.project(job="print('ran')\n")
    (project / "devloop.toml").write_text(f'ports = ["{here}:{there}"]\n')
    up = Up(box, project, "--", "python3", "job.py")
    up.out.wait_for("ran")
    assert_closed(here)
    up.talk.wait_for(f"nothing listens on port {there} of the box")
    with serving(echo, port=there), connect(here) as sock:
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
    up.leave()
    assert refuses(here)


def test_a_port_in_use_stops_no_run(box: Box) -> None:
    project = box.project()
    with serving(echo) as taken:
        (project / "devloop.toml").write_text(f"ports = [{taken}]\n")
        done = box.exec(project, "echo", "ran")
        assert (done.code, done.text) == (0, "ran\n")
        assert f"port {taken} is in use on this machine" in done.stderr
        assert box.run(project, "exec", "-q", "--", "true").stderr == ""


def test_forward_without_words_takes_the_ports_of_the_project(box: Box) -> None:
    here = free_port()
    project = box.project()
    with serving(echo) as there:
        (project / "devloop.toml").write_text(f'ports = ["{here}:{there}"]\n')
        forward = Forward(box, project=project)
        forward.talk.wait_for("leads to")
        with connect(here) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        forward.close()


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def assert_closed(port: int) -> None:
    """It is accepted, and reset without a byte: at times before connect has returned."""
    with pytest.raises(ConnectionResetError), connect(port) as sock:
        assert sock.recv(1) is None


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def listening(forward: Forward) -> list[Any]:
    connections = psutil.Process(forward.process.pid).net_connections("tcp")
    return [one for one in connections if one.status == psutil.CONN_LISTEN]


def memory(box: Box, forward: Forward) -> int:
    agent, client = box.agent(), psutil.Process(forward.process.pid)
    return int(agent.memory_info().rss + client.memory_info().rss)
