"""What a box is asked, what it answers, and what follows from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devloop.sync.ssh.boxerrors import NoPython, PlatformUnsupported
from devloop.sync.ssh.facts import (
    BoxPython,
    Facts,
    bridge_command,
    choose_python,
    parse_facts,
    platform_tags,
    printable,
    unpack_command,
    uv_command,
)

NEW = BoxPython("/usr/bin/python3.12", (3, 12, 1), "glibc", (2, 36), "x86_64")
OLD = NEW._replace(path="/usr/bin/python3", version=(3, 9, 18))
FACTS = Facts("Linux", "x86_64", "/home/me/.local/share/devloop/versions", "", (NEW,))


@pytest.mark.parametrize(
    "command",
    [bridge_command("1-a", "start", "", ()), unpack_command("p", "r", "b"), uv_command("/uv")],
)
def test_a_script_holds_nothing_that_a_login_shell_reads_its_own_way(command: str) -> None:
    script = command.removeprefix("exec /bin/sh -c '").partition("' sh")[0]
    assert not set("'\\\n!") & set(script)
    assert "devloop-here" not in command  # an echo of the command is no answer


def shells() -> list[object]:
    names = ("bash", "dash", "fish", "tcsh", "zsh")
    return [pytest.param(name, id=name) for name in names if shutil.which(name)]


@pytest.mark.parametrize("shell", shells())
def test_every_login_shell_asks_the_same_facts(shell: str, tmp_path: Path) -> None:
    command = bridge_command("1-a", "start", sys.executable, ("--idle-timeout", "1.5"))
    done = subprocess.run(
        [shell, "-c", command],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0], lines[-1]) == (90, "devloop-here facts", "end"), done
    facts = parse_facts(lines)
    assert facts.root == str(tmp_path / ".local" / "share" / "devloop" / "versions")
    assert [python.path for python in facts.pythons] == [str(Path(sys.executable).resolve())]
    assert facts.pythons[0].version == sys.version_info[:3]


@pytest.mark.parametrize("shell", shells())
def test_who_only_looks_is_told_that_nothing_is_there(shell: str, tmp_path: Path) -> None:
    command = bridge_command("1-a", "find", "", ())
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([shell, "-c", command], env=environ, capture_output=True, check=True)
    assert done.stdout == b"devloop-here absent\n"


def test_the_first_python_that_is_new_enough_is_taken() -> None:
    assert choose_python(FACTS._replace(pythons=(OLD, NEW)), "box") is NEW


def test_uv_stands_in_for_a_python() -> None:
    assert choose_python(FACTS._replace(pythons=(OLD,), uv="/opt/uv"), "box") is None


def test_an_old_python_is_named() -> None:
    with pytest.raises(NoPython, match=r"newest Python on box is 3\.9\.18 \(/usr/bin/python3\)"):
        choose_python(FACTS._replace(pythons=(OLD,)), "box")


def test_a_box_without_a_python_is_told_apart() -> None:
    with pytest.raises(NoPython, match="box has no Python") as caught:
        choose_python(FACTS._replace(pythons=()), "box")
    assert "uv" in caught.value.hint


def test_another_system_than_linux_is_refused() -> None:
    with pytest.raises(PlatformUnsupported, match="box runs Darwin"):
        choose_python(FACTS._replace(system="Darwin"), "box")


@pytest.mark.parametrize(
    "line",
    [
        "python ",
        "python 2.7.18",
        "python 3 12 1 pypy 0 glibc 2.36 /opt/pypy",
        "python 3 13 0 cpython t glibc 2.36 /opt/free-threaded",
        "python x y z cpython 0 glibc 2.36 /opt/strange",
    ],
)
def test_what_can_run_no_wheels_is_passed_over(line: str) -> None:
    good = "python 3 12 1 cpython 0 glibc 2.36 /usr/bin/python3.12"
    facts = parse_facts(["system Linux", "machine x86_64", line, good, good])
    assert facts.pythons == (NEW,)


def test_a_path_may_hold_spaces() -> None:
    facts = parse_facts(["machine x86_64", "python 3 12 1 cpython 0 glibc 2.36 /a b/python"])
    assert facts.pythons[0].path == "/a b/python"


def test_musl_is_recognised() -> None:
    facts = parse_facts(
        [
            "machine aarch64",
            "ldd musl libc (aarch64)",
            "python 3 12 1 cpython 0 0 0 /usr/bin/python3",
        ]
    )
    assert platform_tags(facts.pythons[0])[0] == "musllinux_1_2_aarch64"


def test_wheels_for_older_c_libraries_will_do() -> None:
    tags = platform_tags(NEW)
    assert tags[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_17_x86_64" in tags
    assert "manylinux2014_x86_64" in tags
    assert "manylinux_2_37_x86_64" not in tags


def test_what_the_far_side_printed_cannot_act_on_the_terminal() -> None:
    assert printable(b"\x1b[2Jmotd\r\n\nbye\x07\xff") == "\\x1b[2Jmotd; bye\\x07\\xff"
