"""Promise 16: a dead or hung file server fails fast and heals, and nothing is left mounted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.cafs.tiers.servers import serve_nothing
from tests.e2e.box import Tail, open_box, wait_until
from tests.images.bases import debian_base
from tests.images.registry import missing_program, start_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.box import Box

pytestmark = [pytest.mark.promise(16), pytest.mark.root]

TRIES = 10 if os.environ.get("DEVLOOP_SOAK") == "1" else 2
UNTOUCHED = "/usr/share/perl5/Debconf/Config.pm"  # by any start
STOPPED_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An image's reference, and the address of a tier that has it. Its registry is gone."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    folder = tmp_path_factory.mktemp("lazy")
    with open_box() as box:
        with start_registry(folder / "registry") as registry:
            registry.push(debian_base().reference, "team/train:1")
            name, project = registry.name("team/train:1"), box.project()
            assert box.run(project, "image", "pull", name).code == 0
        pushed = box.run(project, "image", "push", name, "--to", f"file://{folder}/tier")
        assert pushed.code == 0, pushed
    return name, f"file://{folder}/tier"


@pytest.fixture
def box() -> Iterator[Box]:
    with open_box() as box:
        yield box


def project_of(box: Box, lazy: tuple[str, str]) -> Path:
    project = box.project()
    configure(project, *lazy)
    return project


def configure(project: Path, image: str, store: str) -> None:
    (project / "devloop.toml").write_text(f'image = "{image}"\nstore = ["{store}"]\n')


def file_servers(box: Box) -> list[psutil.Process]:
    """One of them may wait for its first request."""
    return [one for one in box.agent().children(recursive=True) if _is_file_server(one)]


def _is_file_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
        return "devloop.cafs.fuse" in " ".join(process.cmdline())
    return False


def serving(box: Box) -> list[psutil.Process]:
    """Those that have mounted something."""
    mounts = {one: Path(f"/proc/{one.pid}/mountinfo").read_text() for one in file_servers(box)}
    return [one for one, lines in mounts.items() if " fuse." in lines]


def assert_nothing_stays(box: Box) -> None:
    box.run(box.base, "down")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in lines if str(box.base) in line] == []
    folder = str(box.base)
    left = [
        p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []


def test_killed_in_mid_run_the_run_ends_with_a_reason_and_the_next_one_works(
    box: Box, lazy: tuple[str, str]
) -> None:
    project = project_of(box, lazy)
    for _ in range(TRIES):
        process = box.start(
            project,
            *("exec", "--", "sh", "-c", f"echo up; sleep 2; cat {UNTOUCHED} >/dev/null; sleep 60"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        Tail(process.stdout).wait_for("up")
        began = time.monotonic()
        (server,) = serving(box)
        server.send_signal(signal.SIGKILL)
        talk = Tail(process.stderr)
        assert process.wait(20) != 0
        assert time.monotonic() - began < STOPPED_WITHIN_S
        assert "its container has ended: its file server has ended" in talk.wait_for_end()
        assert box.exec(project, "cat", "/etc/debian_version").text.startswith("12")
    assert_nothing_stays(box)
    print(f"promise 16: killed {TRIES} times in mid-run")


def test_killed_during_a_start_the_next_start_works(box: Box, lazy: tuple[str, str]) -> None:
    project = project_of(box, lazy)
    assert box.run(project, "exec", "--image", "host", "--", "true").code == 0
    for _ in range(TRIES):
        process = box.start(
            project, "exec", "--", "cat", "/etc/debian_version", stderr=subprocess.PIPE
        )
        wait_until(lambda: file_servers(box))
        for server in file_servers(box):
            server.send_signal(signal.SIGKILL)
        talk = Tail(process.stderr)
        assert process.wait(30) in (0, 1, 128 + signal.SIGKILL, 255)
        assert "Traceback" not in talk.wait_for_end()
        assert box.exec(project, "cat", "/etc/debian_version").text.startswith("12")
        box.run(project, "down")
        assert box.run(project, "exec", "--image", "host", "--", "true").code == 0
    assert_nothing_stays(box)
    print(f"promise 16: killed {TRIES} times during a start")


@pytest.mark.promise(8)
def test_a_run_that_waits_for_an_upstream_that_never_answers_can_be_stopped(
    box: Box, lazy: tuple[str, str]
) -> None:
    project = project_of(box, lazy)
    assert box.exec(project, "sh", "-c", "cat </dev/null").code == 0
    box.run(project, "down")
    with serve_nothing() as silent:
        configure(project, lazy[0], silent)
        process = box.start(
            project,
            *("exec", "--", "sh", "-c", f"echo up; exec cat {UNTOUCHED}"),
            stdout=subprocess.PIPE,
        )
        Tail(process.stdout).wait_for("up")
        port = int(silent.rpartition(":")[2])

        def asks() -> bool:
            found = [c for one in serving(box) for c in one.net_connections("tcp")]
            return any(c.raddr and c.raddr.port == port for c in found)

        wait_until(asks)
        began = time.monotonic()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert time.monotonic() - began < 20
        assert time.monotonic() - began < STOPPED_WITHIN_S
        wait_until(lambda: not box.live_runs(project), timeout_s=STOPPED_WITHIN_S)
        assert box.exec(project, "sh", "-c", "cat </dev/null").code == 0  # what it needs is here
    assert_nothing_stays(box)
