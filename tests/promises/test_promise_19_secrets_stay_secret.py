"""Promise 19: a secret given to a run is found nowhere that devloop writes.

The canary is searched in every file below the state and cache directories, in the command lines
of all processes, and in what devloop says. The run's own memory and output are its own business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from tests.e2e.box import Up, save
from tests.e2e.conftest import open_either

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.box import Box

# Whole only in what devloop is given: this file's own text must not match.
CANARIES = {"A": "canary" + "-run-env", "B": "canary" + "-env-file", "C": "canary" + "-flag"}
MAIN = """
import os, time
print(len(os.environ["A"]), len(os.environ["B"]), len(os.environ["C"]), flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["embedded", "ssh"])
def box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    with open_either(request.param, ssh_shared) as opened:
        yield opened


@pytest.fixture
def project(box: Box) -> Path:
    made = box.project(main=MAIN)
    (made / ".env").write_text(f"B={CANARIES['B']}\n")
    # Over SSH the client's own environment, which has C, stays where it is.
    more = "" if box.sshd is None else f', C = "{CANARIES["C"]}"'
    (made / "devloop.toml").write_text(
        "[run]\n"
        f'env = {{A = "{CANARIES["A"]}"{more}}}\n'
        'env_file = ".env"\n'
        "[sync]\n"
        'ignore = ["devloop.toml", ".env"]\n'  # their copies in the workspace are the user's wish
    )
    return made


@pytest.mark.promise(19)
def test_a_secret_of_a_run_is_found_nowhere(box: Box, project: Path) -> None:
    up = Up(box, project, "--", "python3", "main.py", env=box.env | {"C": CANARIES["C"]})
    up.out.wait_for(r"^14 15 11$")
    said = [box.run(project, *words) for words in (["ps", "-a"], ["doctor"], ["logs"])]
    save(project / "main.py", "import os\nprint(os.environ['A'][:0] + 'learned', flush=True)")
    up.out.wait_for("^learned$")
    up.talk.wait_for("run 2 ✓")
    files = assert_nowhere_on_disk(box)
    processes = assert_in_no_command_line()
    talk = up.leave()
    for done in said:
        assert_silent(done.stderr + done.text)
    assert_silent(talk)
    print(f"{len(CANARIES)} canaries, {files} files and {processes} processes searched")


@pytest.mark.promise(19)
def test_a_secret_on_the_command_line_goes_no_further_than_that(box: Box, project: Path) -> None:
    words = ("exec", "-d", "-e", f"C={CANARIES['C']}", "--", "python3", "main.py")
    done = box.run(project, *words)
    assert done.code == 0
    box.run(project, "logs")
    files = assert_nowhere_on_disk(box)
    processes = assert_in_no_command_line()
    assert_silent(done.stderr + box.run(project, "ps", "-a").text)
    print(f"{len(CANARIES)} canaries, {files} files and {processes} processes searched")


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("devloop.toml", '[run]\nenv = {{A = "{0}", B = 1}}\n'),
        ("devloop.toml", '[run]\nenv = {{A = "{0}"\n'),
        ("devloop.toml", '[run]\nenv = "{0}"\n'),
        (".env", "A='{0}\n"),
        (".env", "{0}\n"),
    ],
)
def test_an_error_about_a_secret_does_not_show_it(
    box: Box, project: Path, name: str, text: str
) -> None:
    (project / name).write_text(text.format(CANARIES["A"]))
    done = box.exec(project, "true")
    print("1 message searched")
    assert done.code == 255, done
    assert_silent(done.stderr)


def assert_silent(text: str) -> None:
    for canary in CANARIES.values():
        assert canary not in text, text


def assert_nowhere_on_disk(box: Box) -> int:
    searched = 0
    for directory in (box.state_dir, box.cache_dir, box.runtime_dir):
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                searched += 1
                for canary in CANARIES.values():
                    assert canary.encode() not in data, path
                    assert canary not in path.name
    assert searched > 0
    return searched


def assert_in_no_command_line() -> int:
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    for line in lines:
        assert_silent(" ".join(line))
    return len(lines)
