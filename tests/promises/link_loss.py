"""A run over a link that is lost for a while; started in a network namespace of its own.

    unshare --net python link_loss.py SHARED LINES LOSS_S

SHARED has what a box fetches and installs: there is no network here. Prints one JSON object: what a
client of a run of LINES numbered lines saw while every packet to and from sshd was dropped for
LOSS_S seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.e2e.box import open_ssh_box

# Every line carries its number; the whole takes about as long as the link is away, and half more.
PROGRAM = """
import sys, time
lines, over_s = int(sys.argv[1]), float(sys.argv[2])
began = time.monotonic()
for number in range(lines):
    if number % 100 == 0:
        time.sleep(max(0.0, began + over_s * number / lines - time.monotonic()))
        sys.stdout.flush()
    print(number)
"""


class Seen:
    """What came on one pipe, and when."""

    def __init__(self, pipe: object) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []
        self._pipe = pipe
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        for line in self._pipe:  # type: ignore[attr-defined]
            self.lines.append(line.decode().rstrip("\n"))
            self.times.append(time.monotonic())

    def wait_for(self, pattern: str, timeout_s: float) -> float:
        """When the first line like it came; NaN when none did in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line, at in zip(list(self.lines), list(self.times), strict=False):
                if re.search(pattern, line):
                    return at
            time.sleep(0.01)
        return float("nan")


def firewall(action: str, port: int) -> None:
    for direction, flag in (("INPUT", "--dport"), ("INPUT", "--sport")):
        rule = ["-i", "lo", "-p", "tcp", flag, str(port), "-j", "DROP"]
        subprocess.run(["iptables", "-w", action, direction, *rule], check=True)


def main(shared: Path, lines: int, loss_s: float) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open_ssh_box(shared) as box:
        assert box.sshd is not None
        port = box.sshd.port
        project = box.project(count=PROGRAM)
        warm = box.run(project, "exec", "--", "true", timeout_s=120)
        assert warm.code == 0, warm
        words = ("exec", "--", "python3", "count.py", str(lines), str(loss_s * 1.5))
        pipe = subprocess.PIPE
        client = box.start(project, *words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        out, talk = Seen(client.stdout), Seen(client.stderr)
        out.wait_for("^100$", 30)
        firewall("-A", port)
        lost_at = time.monotonic()
        noticed_at = talk.wait_for("trying to reach it again", min(30, loss_s))
        time.sleep(max(0.0, lost_at + loss_s - time.monotonic()))
        seen = len(out.lines)
        firewall("-D", port)
        back_at = time.monotonic()
        resumed_at = talk.wait_for("connected again", 60)
        code = client.wait(120)
        for seen_pipe in (out, talk):
            seen_pipe.thread.join()
        result = {
            "code": code,
            "lines": len(out.lines),
            "in_order": out.lines == [str(number) for number in range(lines)],
            "seen_when_lost": seen,
            "noticed_s": noticed_at - lost_at,
            "resumed_s": resumed_at - back_at,
            "talk": talk.lines,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
