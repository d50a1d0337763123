"""Promise 8: nothing of a run survives its stop, whatever the program does about it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.remote_agent.spawning import Workshop, make_environment

from devloop.remote_agent.zygote import words

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.promise(8)

TRIES = 20 if os.environ.get("DEVLOOP_SOAK") == "1" else 1
STOPPED_WITHIN_S = 5.0
KILLED_WITHIN_S = 1.0

# Each prints a line when it is as hard to end as it can get.
STUBBORN = {
    "ignores what it can": """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
while True: time.sleep(20)
""",
    "leaves its session": """
import os, time
if os.fork() == 0:
    os.setsid()
    print("up", flush=True)
time.sleep(20)
""",
    "forks twice": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("up", flush=True)
        time.sleep(20)
    os._exit(0)
time.sleep(20)
""",
    "is stopped": """
import os, signal
print("up", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "has stopped children": """
import os, signal, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(20)
print("up", flush=True)
time.sleep(20)
""",
    "forks without end": """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
for _ in range(4): os.fork()
end = time.monotonic() + 15
while time.monotonic() < end:
    pid = os.fork()
    if pid: os._exit(0)
    os.setsid()
    time.sleep(0.002)
""",
    "catches SIGINT": """
import time
print("up", flush=True)
while True:
    try: time.sleep(20)
    except KeyboardInterrupt: pass
""",
}


# Starts one run from a zygote and one cold, and waits to be killed.
AGENT = """
import pathlib, signal, sys
from tests.remote_agent.spawning import Workshop, make_environment
workshop = Workshop.open(pathlib.Path(sys.argv[1]), sys.argv[2])
make_environment(workshop.workspace / ".venv")
code = '''
import os, time
if os.fork() == 0:
    os.setsid()
    print("up", flush=True)
time.sleep(20)
'''
for warm in (True, False):
    workshop.runner.run(
        workshop.start("python", "-c", code, stdout=int(sys.argv[3]), warm=warm)
    )
signal.pause()
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[words.PID_NAMESPACE, words.PROCESS_GROUP])
def workshop(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Workshop]:
    workshop = Workshop.open(tmp_path_factory.mktemp("stop"), request.param)
    if workshop.spawner.level != request.param:
        workshop.close()
        pytest.skip("needs a pid namespace")
    make_environment(workshop.workspace / ".venv")
    yield workshop
    workshop.close()


@pytest.mark.parametrize("warm", [True, False], ids=["zygote", "cold"])
@pytest.mark.parametrize("name", STUBBORN)
def test_the_ladder_ends_everything(workshop: Workshop, name: str, warm: bool) -> None:
    for _ in range(TRIES):
        seconds, gone = workshop.runner.run(_stop(workshop, STUBBORN[name], warm, ladder=True))
        assert gone
        assert seconds < STOPPED_WITHIN_S
    print(f"promise 8: {TRIES} tries, {name}: 0 processes left")


@pytest.mark.parametrize("name", STUBBORN)
def test_a_kill_ends_everything_at_once(workshop: Workshop, name: str) -> None:
    for _ in range(TRIES):
        seconds, gone = workshop.runner.run(_stop(workshop, STUBBORN[name], True, ladder=False))
        assert gone
        assert seconds < KILLED_WITHIN_S
    print(f"promise 8: {TRIES} tries, {name}: 0 processes left")


def test_what_a_program_leaves_behind_ends_with_it(workshop: Workshop) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True)"
    for warm in (True, False):
        # Its output ends only when the last process that holds it has ended.
        assert workshop.run("python", "-c", code, warm=warm).code == 0


def test_a_killed_agent_leaves_nothing_behind(workshop: Workshop, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    command = [sys.executable, "-c", AGENT, str(tmp_path), workshop.spawner.level, str(write_end)]
    agent = subprocess.Popen(command, cwd=ROOT, pass_fds=[write_end])
    os.close(write_end)
    assert [os.read(read_end, 3) for _ in range(2)] == [b"up\n", b"up\n"]
    agent.kill()
    agent.wait()
    assert _ends(read_end, STOPPED_WITHIN_S)
    os.close(read_end)
    print("promise 8: 1 killed agent with 2 runs: 0 processes left")


async def _stop(workshop: Workshop, code: str, warm: bool, *, ladder: bool) -> tuple[float, bool]:
    """Seconds that the stop took, and whether nobody holds the run's output any more."""
    read_end, write_end = os.pipe()
    process = await workshop.start("python", "-c", code, stdout=write_end, warm=warm)
    os.close(write_end)
    assert await asyncio.to_thread(os.read, read_end, 3) == b"up\n"
    begun = time.monotonic()
    waiting = asyncio.ensure_future(process.wait())
    for signum in (signal.SIGINT, signal.SIGTERM) if ladder else ():
        process.signal(signum)
        await asyncio.wait([waiting], timeout=0.05)
    process.kill()
    await asyncio.wait_for(waiting, 10)
    seconds = time.monotonic() - begun
    gone = _ends(read_end, 0)
    os.close(read_end)
    return seconds, gone and process.survivors() == []


def _ends(fd: int, timeout_s: float) -> bool:
    """Every process of a run holds its output: at the end of it, none is left."""
    while select.select([fd], [], [], timeout_s)[0]:
        if not os.read(fd, 1 << 16):
            return True
    return False
