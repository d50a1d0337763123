"""One warm container, as the agent sees it: a keeper, the spawner inside, and what it is asked.

Owns the keeper's process, its socket and its folder's contents while it lives. Knows nothing of
runs, and of how many containers there are (`pool`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devloop
from devloop.cafs.errors import DevloopError
from devloop.remote_agent.forker import Forker, ForkerFailed
from devloop.remote_agent.processes import pid_of
from devloop.remote_agent.served import line_of
from devloop.remote_agent.zygote import wire, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Container", "ContainerFailed", "Keeper"]

_START = Path(__file__).parent / "start.py"
# Above what a missing file may take (`job.DEADLINE_S`), so that the reason is heard: a file for an
# answer, and for a start those that the keeper and the runtime read.
ANSWER_TIMEOUT_S = 45.0
START_TIMEOUT_S = 120.0
_RECORD_TIMEOUT_S = 10.0
# Between the abort of reads that nobody serves and the end of the container.
_AFTER_ABORT_S = 0.5


_TIER_HINT = (
    "see to that place, or take it out of `store` and bring the image: `devloop image pull`"
)


class ContainerFailed(DevloopError):
    """The container does not start, or has ended."""

    hint = "`devloop doctor` says what this box allows"


class Keeper:
    """A keeper's process. It waits for its job from the start, with everything loaded."""

    def __init__(self) -> None:
        self.socket, theirs = wire.socket_pair()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self.process = subprocess.Popen(
                _command(theirs.fileno()),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        finally:
            theirs.close()
        self.socket.setblocking(False)
        self.is_prepared = self._is_announced = False
        self.pidfd = os.pidfd_open(self.process.pid)

    def prepare(self, server: Mapping[str, Any]) -> None:
        """`server`: see `job.server_order`. At most once."""
        self.is_prepared = True
        with contextlib.suppress(OSError):  # its end is noticed by who gives it a job
            wire.send(self.socket, {"op": "ahead", "server": server})

    def announce(self, image: Mapping[str, str]) -> None:
        """{store, index, profile} of what its file server will serve. Once, after `prepare`."""
        if self.is_prepared and not self._is_announced:
            self._is_announced = True
            with contextlib.suppress(OSError):
                wire.send(self.socket, {"op": "image", "image": image})

    def close(self) -> None:
        """Of one that never had a job: it ends by itself."""
        self.socket.close()
        self.process.wait()
        os.close(self.pidfd)
        self.log.close()

    def last_words(self) -> str:
        size = os.fstat(self.log.fileno()).st_size
        text = os.pread(self.log.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace")
        return (text.strip().splitlines() or [""])[-1]


class Container:
    """Every method belongs to the thread of its event loop. `on_end` is called once, when the
    keeper has ended; `on_ending` before, with the reason, unless somebody wished it; `on_served`
    with each line that the file server of its image says."""

    def __init__(self, keeper: Keeper) -> None:
        loop = asyncio.get_running_loop()
        self._keeper = keeper
        self._started: asyncio.Future[None] = loop.create_future()
        self.ended = asyncio.Event()
        self.why = ""
        self._is_ending = False
        self._trouble = ""
        self.is_stuck = False  # a question was not answered in time, and none will be
        self.pause_pid = 0
        self.identity: dict[str, Any] = {}
        self.last_used_s = time.monotonic()
        self.on_end: Callable[[], None] = lambda: None
        self.on_ending: Callable[[str], None] = lambda why: None
        self.on_served: Callable[[str], None] = lambda line: None
        self._spawner_socket, self._spawners_end = wire.socket_pair()
        self._questions, self._questions_end = wire.socket_pair()
        self._questions.setblocking(False)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the forker's from here on
        self.spawner = Forker(self._spawner_socket, log)
        self.spawner.on_message = self._on_launched
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._launched: dict[int, Forker] = {}
        self._opened: asyncio.Future[list[bytes]] | None = None
        loop.add_reader(keeper.socket, self._hear)
        loop.add_reader(keeper.pidfd, self._on_gone)
        loop.add_reader(self._questions, self._on_answer)

    @property
    def is_alive(self) -> bool:
        return not self._is_ending and not self.ended.is_set() and self.spawner.is_alive

    async def start(self, job: Mapping[str, Any]) -> None:
        """Returns when runs can be started in it. Raises ContainerFailed; it has ended then."""
        log = self.spawner.log_fileno()
        fds = [self._spawners_end.fileno(), self._questions_end.fileno(), log]
        try:
            wire.send(self._keeper.socket, job, fds)
            self._spawners_end.close()
            self._questions_end.close()
            self.spawner.configure({})
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._started
                await asyncio.shield(self.spawner.loaded)
        except (TimeoutError, ConnectionError) as error:
            await self.end()
            why = self.why or str(error) or "it took too long"
            raise self._failure(f"the container does not start: {why}") from error
        except DevloopError:
            await self.end()
            raise
        except BaseException:
            self._order("end")
            raise

    def touch(self) -> None:
        self.last_used_s = time.monotonic()

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What `look` answers, and under "fds" what came with it. Raises ContainerFailed when it
        cannot."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            wire.send(self._questions, {**question, "number": number})
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError as error:
            self.is_stuck = True
            raise self._failure("the files of the container do not answer") from error
        except OSError as error:
            raise ContainerFailed(f"the container has ended: {self.why or error}") from error
        finally:
            self._answers.pop(number, None)

    def launch(self, command: Sequence[bytes], env: Mapping[bytes, bytes], cwd: bytes) -> Forker:
        """Starts an interpreter of the image's that will fork runs. Raises ForkerFailed."""
        if not self.is_alive:
            raise ForkerFailed("its container has ended")
        ours, theirs = wire.socket_pair()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the forker's from here on
        forker = Forker(ours, log)
        number = next(self._numbers)
        self._launched[number] = forker
        message = {
            "op": words.LAUNCH,
            "number": number,
            "argv": [wire.text_of(word) for word in command],
            "env": {wire.text_of(name): wire.text_of(value) for name, value in env.items()},
            "cwd": wire.text_of(cwd),
            "identity": self.identity,
        }
        self.spawner.order(message, [theirs.fileno(), forker.log_fileno()])
        theirs.close()
        return forker

    async def stop_recording(self) -> list[bytes]:
        """What was opened in it since its start. Raises ContainerFailed."""
        self._opened = asyncio.get_running_loop().create_future()
        self._order("recorded")
        try:
            async with asyncio.timeout(_RECORD_TIMEOUT_S):
                return await self._opened
        except TimeoutError as error:
            raise ContainerFailed("its keeper does not answer") from error

    def abort(self) -> None:
        """Reads of files that nobody serves fail at once."""
        self._order("abort")

    def give_up(self) -> None:
        """The last rung of a run's stop: what does not end by itself, ends with its container."""
        self._end_for("a run in it did not stop in any other way")
        self.abort()
        asyncio.get_running_loop().call_later(_AFTER_ABORT_S, self._order, "end")

    async def end(self) -> None:
        """Returns when its keeper has ended, and with it the kernel's part of it all."""
        self._is_ending = True
        self._order("end")
        await self.ended.wait()

    def kill(self) -> None:
        """Without its keeper's help. The kernel ends what the keeper held."""
        if not self.ended.is_set():
            signal.pidfd_send_signal(self._keeper.pidfd, signal.SIGKILL)

    # -- what comes from the keeper and from inside

    def _order(self, order: str) -> None:
        if self.ended.is_set():
            return
        try:
            wire.send(self._keeper.socket, {"op": order})
        except OSError:
            return  # its end is noticed where it is reaped

    def _hear(self) -> None:
        while (received := _received(self._keeper.socket)) is not None:
            message, fds = received
            if not message:
                asyncio.get_running_loop().remove_reader(self._keeper.socket)
                return
            self._take(message, fds)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["event"]:
            case "started":
                pause_fd, spawner_fd = fds
                self.pause_pid = pid_of(pause_fd)
                self.identity = message["identity"]
                os.close(pause_fd)
                self.spawner.attach(pid_of(spawner_fd), spawner_fd, lambda: "in its container")
                if not self._started.done():
                    self._started.set_result(None)
            case "failed":
                self.why = message["message"]
                if not self._started.done():
                    failure = self._failure(message["message"], message["hint"])
                    self._started.set_exception(failure)
                    self._started.exception()  # nobody need be waiting
            case "served":
                self._trouble = line_of(message["line"]) or self._trouble
                self.on_served(message["line"])
            case "opened":
                with os.fdopen(fds[0], "rb") as file:
                    paths = file.read().split(b"\0")[:-1]
                if self._opened is not None and not self._opened.done():
                    self._opened.set_result(paths)
            case "ending":
                self._end_for(message["why"])

    def _failure(self, message: str, hint: str = "") -> ContainerFailed:
        """With what the server of its files has said last, if it had trouble."""
        if self._trouble:
            return ContainerFailed(f"{message}: {self._trouble}", hint=_TIER_HINT)
        return ContainerFailed(message, hint=hint or ContainerFailed.hint)

    def _end_for(self, why: str) -> None:
        """No run is started in it any more."""
        if not self._is_ending:
            self._is_ending = True
            self.why = why
            self.on_ending(why)

    def _on_answer(self) -> None:
        while (received := _received(self._questions)) is not None:
            message, fds = received
            if not message:
                asyncio.get_running_loop().remove_reader(self._questions)
                return
            answer = self._answers.get(message["number"])
            if answer is not None and not answer.done():
                answer.set_result({**message, "fds": fds})
            else:
                for fd in fds:
                    os.close(fd)

    def _on_launched(self, message: dict[str, Any], fds: list[int]) -> None:
        forker = self._launched.pop(message["number"])
        if fds:
            forker.attach(pid_of(fds[0]), fds[0], lambda: "in its container")
        else:
            forker.fail(ForkerFailed(f"it does not start in its container: {message['error']}"))

    def _on_gone(self) -> None:
        """The keeper has ended, by whatever cause."""
        self._hear()
        keeper, loop = self._keeper, asyncio.get_running_loop()
        status = keeper.process.wait()
        if status and not self.why:
            # Now: the runs in it are still ending, and their logs take the reason.
            self._end_for(keeper.last_words() or _how_it_ended(status))
        for sock in (keeper.socket, self._questions):
            loop.remove_reader(sock)
            sock.close()
        self._spawners_end.close()
        self._questions_end.close()
        loop.remove_reader(keeper.pidfd)
        os.close(keeper.pidfd)
        keeper.log.close()
        self._settle()
        self.ended.set()
        self.on_end()

    def _settle(self) -> None:
        failure = ContainerFailed(f"the container has ended: {self.why or 'as it was told to'}")
        futures: list[asyncio.Future[Any]] = [self._started, *self._answers.values()]
        if self._opened is not None:
            futures.append(self._opened)
        for waiting in futures:
            if not waiting.done():
                waiting.set_exception(failure)
                waiting.exception()
        gone = ForkerFailed(str(failure))
        for forker in self._launched.values():
            forker.fail(gone)
        self._launched.clear()
        if self.spawner.pid == 0:
            self.spawner.fail(gone)


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its keeper was killed by {signal.Signals(-status).name}"
    return f"its keeper ended with {status}"


def _received(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """None when there is nothing more for now; an empty message at the end."""
    try:
        received = wire.receive(sock)
    except BlockingIOError:
        return None
    except OSError:
        received = None
    return ({}, []) if received is None else (received.message, received.fds)


def _command(control: int) -> list[str]:
    """Short: whoever lives in a container can read it."""
    return [sys.executable, "-I", "-S", str(_START), str(control)]


def _environment() -> dict[str, str]:
    """It finds what this process finds, without another look for it (`site`)."""
    sources = [*(str(Path(path).parent) for path in devloop.__path__), *filter(None, sys.path)]
    path = os.pathsep.join(dict.fromkeys(sources))
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "DEVLOOP_SOURCES": path}
