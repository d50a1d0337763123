"""Promise 18: version skew is one clear action.

The other build is a real one: an installation beside ours whose name says another version, and a
real agent that was started from it over SSH.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.boxes import (
    add_old_build,
    builds,
    fail_to_reach,
    is_alive,
    reached,
    share_wheels,
    start_agent,
    start_run,
    target_of,
    versions,
)
from tests.sshd import find_sshd, start_sshd

from devloop.sync.ssh.boxerrors import NotOurWords
from devloop.sync.ssh.build import own_build
from devloop.sync.target import OtherVersion

if TYPE_CHECKING:
    from tests.sshd import Sshd

pytestmark = [
    pytest.mark.promise(18),
    pytest.mark.skipif(find_sshd() is None, reason="needs sshd"),
]


@pytest.fixture(autouse=True)
def wheels(tmp_path_factory: pytest.TempPathFactory, own_directories: None) -> None:
    folder = tmp_path_factory.getbasetemp() / "wheels"
    share_wheels(folder, Path(os.environ["DEVLOOP_CACHE_DIR"]))


async def test_an_idle_agent_of_another_build_makes_way(sshd: Sshd) -> None:
    await install(sshd)
    start_agent(sshd, add_old_build(sshd))
    looking = target_of(sshd)
    found = await looking.connect_if_running()
    assert found is not None
    await found[0].close()
    await looking.close()
    async with reached(target_of(sshd)) as client:
        facts = await client.hello()
    assert facts.agent_pid != found[1].agent_pid
    assert not is_alive(found[1].agent_pid)
    print("1 try, 1 taken over")


async def test_an_agent_of_another_build_stays_for_its_live_runs(sshd: Sshd) -> None:
    await install(sshd)
    start_agent(sshd, add_old_build(sshd))
    looking = target_of(sshd)
    found = await looking.connect_if_running()
    assert found is not None
    run = await start_run(found[0], b"sleep", b"60")
    both = f"is devloop 0.0.9-0123456789ab, this is {own_build()}, "
    said = re.escape(both) + f"and run {run.number} is live there"
    with pytest.raises(OtherVersion, match=said) as caught:
        await fail_to_reach(target_of(sshd))
    assert "`devloop ps`" in caught.value.hint
    # The run goes on, visible to whoever looks, and makes way when it is told to.
    (seen,) = await found[0].list_runs()
    assert seen.live
    await found[0].stop_run(seen.workspace_id, seen.number)
    await found[0].close()
    await looking.close()
    async with reached(target_of(sshd)) as client:
        assert (await client.hello()).agent_pid != found[1].agent_pid
    print("1 try: named, kept, and taken over when idle")


async def test_a_run_outlives_the_folder_that_its_agent_came_from(sshd: Sshd) -> None:
    async with reached(target_of(sshd), ends=False) as client:
        before = await client.hello()
        run = await start_run(client, b"sleep", b"60")
    shutil.rmtree(versions(sshd))
    async with reached(target_of(sshd)) as client:
        after = await client.hello()
        (seen,) = await client.list_runs()
        assert (seen.number, seen.live) == (run.number, True)
    assert after.agent_pid == before.agent_pid
    assert builds(sshd) == [own_build()]
    print("1 try, 1 run went on")


NOISES = {
    "words": "echo Welcome to gpu1; echo careful >&2",
    "no line end": "printf 'loading modules... '",
    "binary": "head -c 30000 /dev/urandom",
    "an echo of the command": 'echo "$BASH_EXECUTION_STRING"',
    "slow": "sleep 0.7",
    "another shell": 'exec dash -c "$BASH_EXECUTION_STRING"',
    "a failing command": "false; set +e; cd /nowhere",
}


async def test_noisy_start_up_files_do_not_break_the_connection(tmp_path: Path) -> None:
    with start_sshd(tmp_path / "sshd", shell="bash") as box:
        await install(box)
        for what, noise in NOISES.items():
            make_noise(box, noise)
            async with reached(target_of(box), ends=False) as client:
                assert await client.list_runs() == [], what
        await install(box)
    print(f"{len(NOISES)} noises, {len(NOISES)} connections")


async def test_what_a_start_up_file_printed_instead_is_in_the_error(tmp_path: Path) -> None:
    silencers = {
        "echo Maintenance until noon.; exit 3": r"exit code 3\): Maintenance until noon\.",
        "exec echo no $'\\e[31m'shell": r"no \\x1b\[31mshell",
        "yes | head -c 100000; exit": "more than 65,536 bytes",
    }
    with start_sshd(tmp_path / "sshd", shell="bash") as box:
        for noise, words in silencers.items():
            make_noise(box, noise)
            with pytest.raises(NotOurWords, match=words):
                await fail_to_reach(target_of(box))
    print(f"{len(silencers)} tries, {len(silencers)} explained")


async def install(box: Sshd) -> None:
    """And end the agent."""
    async with reached(target_of(box)):
        pass


def make_noise(box: Sshd, script: str) -> None:
    """In a start-up file that bash reads for the commands of an SSH session."""
    (box.home / ".bashrc").write_text(f"{script}\n")
