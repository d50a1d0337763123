"""`devloop exec`: bytes in, bytes out, and what happens when nobody reads or writes them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .box import DEVLOOP, Tail, events

if TYPE_CHECKING:
    from .box import Box

BIG_BYTES = 50 << 20
RANDOM_BYTES = 20 << 20
BOTH_STREAMS = """
import hashlib, os, random, sys
source = random.Random(7)
digests = {1: hashlib.sha256(), 2: hashlib.sha256()}
for _ in range(%d >> 20):
    for fd, digest in digests.items():
        data = source.randbytes((1 << 20) - source.randrange(999))
        digest.update(data)
        while data:
            data = data[os.write(fd, data):]
open(sys.argv[1], "w").write(" ".join(d.hexdigest() for d in digests.values()))
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.over_ssh
def test_stdout_and_stderr_arrive_apart_and_byte_for_byte(box: Box, tmp_path: Path) -> None:
    project = box.project(both=BOTH_STREAMS % RANDOM_BYTES)
    digests = tmp_path / "digests"
    with (tmp_path / "err").open("wb") as stderr:
        words = ("exec", "-q", "--", "python3", "both.py", str(digests))
        process = box.start(
            project, *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{sha256(stdout)} {sha256((tmp_path / 'err').read_bytes())}" == digests.read_text()


@pytest.mark.over_ssh
def test_a_large_file_on_stdin_arrives_whole(box: Box, tmp_path: Path) -> None:
    data = b"%064x\n" * 1024 * (BIG_BYTES // 1024 // 5)
    path = tmp_path / "big"
    path.write_bytes(data[:BIG_BYTES])
    with path.open("rb") as stdin:
        process = box.start(
            box.project(),
            *("exec", "--", "sha256sum"),
            stdin=stdin,
            stdout=subprocess.PIPE,
        )
        stdout, _ = process.communicate(timeout=60)
    assert stdout.split()[0].decode() == sha256(path.read_bytes())


@pytest.mark.parametrize("redirect", ["</dev/null", "<&-"])
def test_an_empty_or_closed_stdin_is_at_its_end(box: Box, redirect: str) -> None:
    done = shell(box, f"devloop exec -- cat {redirect}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_endless_stdin_ends_with_the_program_that_reads_it(box: Box) -> None:
    done = shell(box, "yes | devloop exec -- head -c 5000000")
    assert (done.returncode, done.stdout) == (0, b"y\n" * 2500000)


def test_a_closed_stdout_drops_the_output(box: Box) -> None:
    done = shell(box, "devloop exec -- sh -c 'echo out; echo err >&2' >&-")
    assert (done.returncode, done.stderr) == (0, b"err\n")


def test_with_every_stream_closed_the_exit_code_still_comes(box: Box) -> None:
    assert shell(box, "devloop exec -- sh -c 'echo hi; exit 5' <&- >&- 2>&-").returncode == 5


@pytest.mark.parametrize("program", ["echo hi", "yes"])
def test_a_full_stdout_ends_the_run_with_one_error(box: Box, program: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux")
    done = shell(box, f"devloop exec -- {program} >/dev/full")
    assert done.returncode == 255
    assert done.stderr.startswith(b"error: cannot write to standard output: No space left")
    assert b"Traceback" not in done.stderr


@pytest.mark.over_ssh
def test_a_reader_that_goes_away_ends_the_run(box: Box) -> None:
    project = box.project()
    done = shell(box, "devloop exec -- yes | head -1; echo ${PIPESTATUS[0]}", project)
    assert done.stdout == b"y\n141\n"
    assert box.live_runs(project) == ""


@pytest.mark.over_ssh
def test_the_output_of_a_run_that_ends_at_once_is_never_lost(box: Box) -> None:
    project = box.project()
    for _ in range(4):
        assert box.exec(project, "echo", "hi").text == "hi\n"


@pytest.mark.over_ssh
def test_json_gives_one_event_a_line(box: Box) -> None:
    words = ("exec", "--json", "--", "sh", "-c", r"echo hi; sleep .1; printf '\377'; exit 3")
    done = box.run(box.project(), *words)
    started, *outputs, ended = events(done)
    assert (started["event"], ended["event"]) == ("started", "ended")
    assert [output["stream"] for output in outputs] == ["stdout"] * len(outputs)
    assert outputs[0]["text"] == "hi\n"
    assert outputs[-1]["base64"] == "/w=="
    assert (done.code, ended["exit_code"], ended["run"]) == (3, 3, started["run"])
    assert done.stderr == ""


def test_quiet_prints_what_the_program_prints_and_nothing_else(box: Box) -> None:
    project = box.project()
    (project / "link").symlink_to("/etc")
    subprocess.run(["mkfifo", project / "fifo"], check=True)
    done = box.run(project, "exec", "-q", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.code, done.text, done.stderr) == (0, "out\n", "err\n")


def test_output_comes_while_the_program_runs(box: Box) -> None:
    words = ("exec", "--", "sh", "-c", "echo first; read line; echo $line")
    process = box.start(
        box.project(), *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    out = Tail(process.stdout)
    out.wait_for("first")
    assert process.stdin is not None
    process.stdin.write(b"second\n")
    out.wait_for("second")
    assert process.wait(10) == 0


def shell(box: Box, line: str, project: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """A line of bash that says `devloop`."""
    path = str(Path(DEVLOOP).parent)
    return subprocess.run(
        ["bash", "-c", line],
        cwd=project or box.project(),
        env=box.env | {"PATH": f"{path}:{box.env['PATH']}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
