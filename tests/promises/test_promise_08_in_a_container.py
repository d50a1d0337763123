"""Promise 8 in a container: nothing of a run survives its stop, and the container goes on."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.promises.test_promise_08_nothing_survives_its_stop import STUBBORN
from tests.remote_agent.container.rooms import (
    KINDS,
    Room,
    lives,
    processes_of,
    skip_unless_possible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.promise(8)

TRIES = 20 if os.environ.get("DEVLOOP_SOAK") == "1" else 1
STOPPED_WITHIN_S = 5.0


@pytest.fixture(scope="module", params=KINDS)
def room(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Room]:
    skip_unless_possible(request.param)
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("needs python3 in /usr/bin")
    room = Room.enter(tmp_path_factory.mktemp("stop"), request.param)
    yield room
    room.close()


@pytest.mark.parametrize("warm", [True, False], ids=["zygote", "cold"])
@pytest.mark.parametrize("name", STUBBORN)
def test_the_ladder_ends_everything_of_a_run(room: Room, name: str, warm: bool) -> None:
    for _ in range(TRIES):
        seconds, gone = room.runner.run(_stop(room, STUBBORN[name], warm))
        assert gone
        assert seconds < STOPPED_WITHIN_S
    assert room.run("/bin/echo", "on").stdout == b"on\n"
    print(f"promise 8: {TRIES} tries in a container, {name}: 0 processes left")


def test_the_last_rung_ends_the_container(room: Room) -> None:
    room.run("/bin/true")
    place = room.containers._places[room.spec]
    inside = processes_of(place.pause_pid)
    begun = time.monotonic()

    async def give_up() -> None:
        place.last_resort()
        await place._container.ended.wait()

    room.runner.run(give_up())
    room.until(lambda: not any(map(lives, inside)))
    assert time.monotonic() - begun < STOPPED_WITHIN_S
    assert room.run("/bin/echo", "again").stdout == b"again\n"


async def _stop(room: Room, code: str, warm: bool) -> tuple[float, bool]:
    """Seconds that the stop took, and whether nobody holds the run's output any more."""
    read_end, write_end = os.pipe()
    process = await room.start("python3", "-c", code, stdout=write_end, warm=warm)
    os.close(write_end)
    assert await asyncio.to_thread(os.read, read_end, 3) == b"up\n"
    begun = time.monotonic()
    waiting = asyncio.ensure_future(process.wait())
    for signum in (signal.SIGINT, signal.SIGTERM):
        process.signal(signum)
        await asyncio.wait([waiting], timeout=0.05)
    process.kill()
    await asyncio.wait_for(waiting, 10)
    seconds = time.monotonic() - begun
    gone = _ends(read_end)
    os.close(read_end)
    return seconds, gone and process.survivors() == []


def _ends(fd: int) -> bool:
    while select.select([fd], [], [], 0)[0]:
        if not os.read(fd, 1 << 16):
            return True
    return False
