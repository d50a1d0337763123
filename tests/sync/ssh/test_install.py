"""Installing the agent on a real box, over a real sshd, and what can be in the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.boxes import (
    PYTHON,
    add_old_build,
    builds,
    fail_to_reach,
    is_alive,
    reached,
    start_agent,
    target_of,
    versions,
)
from tests.sshd import find_sshd, start_sshd

from devloop.sync.ssh.boxerrors import (
    BoxFull,
    BoxUnwritable,
    InstallFailed,
    NoExecution,
    NoPython,
    NotOurWords,
    NoWheels,
)
from devloop.sync.ssh.build import own_build
from devloop.sync.target import AgentEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sshd import Sshd

    from devloop.sync.ssh.install import InstallProgress

pytestmark = [
    pytest.mark.usefixtures("wheels"),
    pytest.mark.skipif(find_sshd() is None, reason="needs sshd"),
]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


async def test_a_bare_box_gets_the_agent_once_and_shows_how_it_goes(sshd: Sshd) -> None:
    seen: list[InstallProgress] = []
    async with reached(target_of(sshd, on_progress=seen.append), ends=False) as client:
        first = await client.hello()
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["fetching", "sending", "unpacking"]
    assert seen[-1].sent_bytes == seen[-1].total_bytes > 1_000_000
    assert builds(sshd) == [own_build()]
    async with reached(target_of(sshd, on_progress=seen.append)) as client:
        second = await client.hello()
    assert second.agent_pid == first.agent_pid
    assert seen[-1].phase == "unpacking"  # nothing was said since
    assert not is_alive(first.agent_pid)


async def test_clients_that_come_at_once_install_and_start_once(sshd: Sshd) -> None:
    targets = [target_of(sshd) for _ in range(3)]
    found = await asyncio.gather(*(target.connect() for target in targets))
    assert len({facts.agent_pid for _, facts in found}) == 1
    assert builds(sshd) == [own_build()]
    await found[0][0].shutdown(stop_runs=True)
    for target, (client, _) in zip(targets, found, strict=True):
        await client.close()
        await target.close()


async def test_an_interrupted_installation_is_redone(sshd: Sshd) -> None:
    """The connection is cut while the wheels are on their way."""

    def cut(progress: InstallProgress) -> None:
        if progress.phase == "sending" and progress.sent_bytes * 2 > progress.total_bytes:
            sshd.drop_connections()

    with pytest.raises(Exception, match="box"):
        await fail_to_reach(target_of(sshd, on_progress=cut))
    assert own_build() not in builds(sshd)
    async with reached(target_of(sshd)) as client:
        await client.hello()
    assert builds(sshd) == [own_build()]


async def test_a_damaged_installation_is_mended(sshd: Sshd) -> None:
    async with reached(target_of(sshd)):
        pass
    for package in versions(sshd).glob("*/lib/*/site-packages/devloop/cafs"):
        shutil.rmtree(package)
    async with reached(target_of(sshd)) as client:
        await client.hello()
    assert builds(sshd) == [own_build()]


async def test_two_builds_are_kept_and_those_in_use(sshd: Sshd) -> None:
    async with reached(target_of(sshd)):
        pass
    old = [add_old_build(sshd, f"0.0.{number}-0123456789ab") for number in range(3)]
    for number, path in enumerate(old):
        os.utime(path, (number, number))
    start_agent(sshd, old[0])  # the oldest one
    versions(sshd).joinpath(own_build()).rename(versions(sshd) / ".old-0-0")
    async with reached(target_of(sshd)):
        pass
    assert builds(sshd) == sorted([old[0].name, old[2].name, own_build()])


async def test_looking_for_an_agent_installs_nothing(sshd: Sshd) -> None:
    target = target_of(sshd)
    assert await target.connect_if_running() is None
    await target.close()
    assert builds(sshd) == []


async def test_an_agent_that_was_ended_is_not_started_by_who_lost_it(sshd: Sshd) -> None:
    async with reached(target_of(sshd)):
        pass
    target = target_of(sshd)
    with pytest.raises(AgentEnded):
        await target.connect(again=True)
    await target.close()


async def test_an_agent_that_was_killed_is_started_by_who_lost_it(sshd: Sshd) -> None:
    async with reached(target_of(sshd), ends=False) as client:
        pid = (await client.hello()).agent_pid
    os.kill(pid, signal.SIGKILL)
    target = target_of(sshd)
    client, facts = await target.connect(again=True)
    assert facts.agent_pid != pid
    await client.shutdown(stop_runs=True)
    await client.close()
    await target.close()


async def test_a_bridge_ends_with_its_channel_and_the_agent_does_not(sshd: Sshd) -> None:
    async with reached(target_of(sshd), ends=False) as client:
        pid = (await client.hello()).agent_pid
    # In a session of its own: the server of the tests kills what descends from a connection.
    async with reached(target_of(sshd), ends=False):
        assert bridges(sshd)
        sshd.drop_connections()
        for _ in range(500):
            if not bridges(sshd):
                break
            await asyncio.sleep(0.01)
        assert not bridges(sshd)
    assert is_alive(pid)
    async with reached(target_of(sshd)) as client:
        assert (await client.hello()).agent_pid == pid


def bridges(box: Sshd) -> list[str]:
    words = ["pgrep", "-f", f"{versions(box)}.*bridge(_start|.py)"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


# -- what can be in the way


async def test_an_old_python_is_refused_with_the_way_out(sshd: Sshd) -> None:
    """A program that answers as Python 3.9 does."""
    old = sshd.folder / "python3.9"
    old.write_text("#!/bin/sh\necho 3 9 18 cpython 0 glibc 2.36 /usr/bin/python3.9\n")
    old.chmod(0o755)
    with pytest.raises(NoPython, match=r"newest Python on box is 3\.9\.18") as caught:
        await fail_to_reach(target_of(sshd, python=str(old)))
    assert "uv" in caught.value.hint


async def test_a_python_that_uv_has_is_used(tmp_path: Path) -> None:
    """`uv` is a program of the test's own, which has brought the Python of the tests."""
    tools = tmp_path / "tools"
    tools.mkdir()
    uv = tools / "uv"
    uv.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        if [ "$*" = "python install 3.12" ]; then touch {tools}/brought; exit 0; fi
        if [ "$*" = "python find 3.12" ] && [ -e {tools}/brought ]; then echo {PYTHON}; fi
        """)
    )
    uv.chmod(0o755)
    for name in ("head", "ldd", "ls", "sh", "touch", "uname"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    seen: list[InstallProgress] = []
    with start_sshd(tmp_path / "sshd", environ={"PATH": str(tools)}) as box:
        async with reached(target_of(box, python="", on_progress=seen.append)) as client:
            await client.hello()
    assert seen[0].phase == "python"


async def test_a_box_that_runs_something_else_is_named_with_what_it_said(tmp_path: Path) -> None:
    settings = {"ForceCommand": "echo 'This account is closed.'; exit 7"}
    with (
        start_sshd(tmp_path / "sshd", settings=settings) as box,
        pytest.raises(NotOurWords, match=r"box answered \(exit code 7\): This account is"),
    ):
        await fail_to_reach(target_of(box))


async def test_without_a_package_index_the_error_says_whose(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEVLOOP_CACHE_DIR", str(tmp_path / "empty-cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(NoWheels, match=r"no wheels for Python 3\.\d+ on \w+ \(glibc\)"):
        await fail_to_reach(target_of(sshd))


async def test_a_home_that_cannot_be_written_is_named(sshd: Sshd) -> None:
    (sshd.home / ".local").write_text("in the way")
    with pytest.raises((BoxUnwritable, InstallFailed), match=r"\.local"):
        await fail_to_reach(target_of(sshd))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a test mounts something for its box."""
    directory = tmp_path / "sshd" / "home"
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], capture_output=True, check=False)


def box_on(disk: Path, options: str) -> list[str]:
    """The words that start sshd where its home is a file system of its own."""
    script = f'mount -t tmpfs -o {options} none {disk} && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@AS_ROOT
async def test_a_full_disk_is_named_with_what_is_needed(disk: Path, tmp_path: Path) -> None:
    with (
        start_sshd(tmp_path / "sshd", wrapper=box_on(disk, "size=16m")) as box,
        pytest.raises(BoxFull, match=r"[\d,]+ bytes needed, [\d,]+ free"),
    ):
        await fail_to_reach(target_of(box))


@AS_ROOT
async def test_a_disk_that_runs_no_programs_is_named(disk: Path, tmp_path: Path) -> None:
    with (
        start_sshd(tmp_path / "sshd", wrapper=box_on(disk, "noexec")) as box,
        pytest.raises(NoExecution, match="noexec"),
    ):
        await fail_to_reach(target_of(box))


@AS_ROOT
async def test_a_read_only_home_is_named(disk: Path, tmp_path: Path) -> None:
    with (
        start_sshd(tmp_path / "sshd", wrapper=box_on(disk, "ro")) as box,
        pytest.raises(BoxUnwritable, match="Read-only"),
    ):
        await fail_to_reach(target_of(box))
