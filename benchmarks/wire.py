"""A wire between a port and another: each byte arrives a while later, in order, and is counted.

    python -m benchmarks.wire PORT TARGET_PORT DELAY_S COUNTS_FILE [BYTES_PER_S]

The delay is for each direction, so that a round trip takes twice as long. The rate, too, is that of
each direction, shared by all connections; without one it is not limited.
COUNTS_FILE holds the bytes to the target and those back, and is written 20 ms after bytes have
passed: a file for each piece took as long as the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque
from pathlib import Path

__all__ = ["main"]

PIECE_BYTES = 1 << 18
MOST_UNDER_WAY = 1 << 12  # pieces
NOTE_PERIOD_S = 0.02


class Wire:
    def __init__(self, target_port: int, delay_s: float, counts: Path, rate: float = 0.0) -> None:
        self._target_port = target_port
        self._rate = rate  # bytes a second; 0: as fast as it goes
        self._free_s = [0.0, 0.0]  # when the last byte of each direction has left
        self._delay_s = delay_s
        self._counts_file = counts
        self._counts = [0, 0]
        self._is_noting = False
        self._note()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target_port, limit=PIECE_BYTES)
        for one in (writer, there[1]):
            sock = one.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._pass(reader, there[1], 0), self._pass(there[0], writer, 1))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, which: int
    ) -> None:
        """Reading goes on while earlier pieces are under way."""
        loop = asyncio.get_running_loop()
        under_way: deque[tuple[float, bytes]] = deque()
        came, room = asyncio.Event(), asyncio.Semaphore(MOST_UNDER_WAY)
        writing = asyncio.create_task(self._write(under_way, came, room, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await room.acquire()
                under_way.append(
                    (self._left_s(which, len(data), loop.time()) + self._delay_s, data)
                )
                came.set()
                self._counts[which] += len(data)
                if not self._is_noting:
                    self._is_noting = True
                    loop.call_later(NOTE_PERIOD_S, self._note)
        under_way.append((loop.time() + self._delay_s, b""))
        came.set()
        await writing

    async def _write(
        self,
        under_way: deque[tuple[float, bytes]],
        came: asyncio.Event,
        room: asyncio.Semaphore,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                while not under_way:
                    came.clear()
                    await came.wait()
                at_s, data = under_way.popleft()
                room.release()
                if (left_s := at_s - loop.time()) > 0:
                    await asyncio.sleep(left_s)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _left_s(self, which: int, size_bytes: int, now_s: float) -> float:
        """When that much more has gone onto the wire."""
        if not self._rate:
            return now_s
        self._free_s[which] = max(self._free_s[which], now_s) + size_bytes / self._rate
        return self._free_s[which]

    def _note(self) -> None:
        self._is_noting = False
        self._counts_file.write_text(f"{self._counts[0]} {self._counts[1]}\n")


async def main(port: int, target_port: int, delay_s: float, counts: Path, rate: float) -> None:
    wire = Wire(target_port, delay_s, counts, rate)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", port, limit=PIECE_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    port_, target_port_, delay_s_, counts_, *rate_ = sys.argv[1:]
    limit = float(rate_[0]) if rate_ else 0.0
    asyncio.run(main(int(port_), int(target_port_), float(delay_s_), Path(counts_), limit))
