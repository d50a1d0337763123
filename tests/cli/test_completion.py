"""Completion, in the shells themselves."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from devloop.cli.completion import completion_script
from devloop.cli.verbs import SHELLS, VERBS

if TYPE_CHECKING:
    from pathlib import Path

CASES = [
    ("devloop ex", "exec"),
    ("devloop exec --js", "--json"),
    ("devloop exec -e A=1 --det", "--detach"),
    ("devloop completion fi", "fish"),
    ("devloop --no-color exec --no-w", "--no-warm"),
    ("devloop -C . vers", "version"),
    ("devloop -C source_dir_o", "source_dir_of_the_test/"),
]


@pytest.fixture
def script(project: Path, request: pytest.FixtureRequest) -> Path:
    path = project / "completion"
    shell = request.node.name.split("_")[1]
    path.write_text(completion_script(shell))
    (project / "source_dir_of_the_test").mkdir()
    return path


BASH = """
source ./completion
COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_devloop
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "completed"), CASES)
def test_bash_completes(script: Path, line: str, completed: str) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", line], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.split() == [completed.rstrip("/")]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "completed"), CASES)
def test_fish_completes(script: Path, line: str, completed: str) -> None:
    code = f"source ./completion; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert [offer.split("\t")[0] for offer in done.stdout.splitlines()] == [completed]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(script: Path) -> None:
    with _Zsh() as zsh:
        for line, completed in CASES:
            words = line.split()
            assert zsh.press_tab(line) == " ".join([*words[:-1], completed])


class _Zsh:
    """An interactive zsh at a terminal. Its Tab completes and then prints and empties the line."""

    SETUP = (
        "PROMPT='' RPROMPT='' PROMPT_EOL_MARK=''; autoload -U compinit;"
        "compinit -u -D; source ./completion;"
        "tab() { zle complete-word; print -r -- \"<<$BUFFER>>\"; BUFFER=''; };"
        "zle -N tab; bindkey '^I' tab; print re''ady\n"
    )

    def __enter__(self) -> _Zsh:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execvp("zsh", ["zsh", "-f", "-i"])
        os.write(self.terminal, self.SETUP.encode())
        self._read_until(b"ready\r\n")
        return self

    def press_tab(self, line: str) -> str:
        os.write(self.terminal, line.encode() + b"\t")
        return self._read_until(b">>").rpartition(b"<<")[2].partition(b">>")[0].decode().strip()

    def _read_until(self, end: bytes) -> bytes:
        seen = b""
        while end not in seen:
            seen += os.read(self.terminal, 4096)
        return seen

    def __exit__(self, *_: object) -> None:
        os.write(self.terminal, b"\x15exit\r")
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_is_in_the_script(shell: str) -> None:
    assert all(verb in completion_script(shell) for verb in VERBS)


def test_the_bash_script_uses_nothing_that_macos_lacks() -> None:
    assert "mapfile" not in completion_script("bash")
    assert "declare -A" not in completion_script("bash")
