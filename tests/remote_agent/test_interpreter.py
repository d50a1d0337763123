"""Which Python a run gets: the project's own, never devloop's by accident."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.command import CommandNotExecutable, resolve_command
from devloop.remote_agent.entrypoint import PythonProgram
from devloop.remote_agent.interpreter import activated, find_command, find_environment

if TYPE_CHECKING:
    from pathlib import Path


def make_venv(prefix: Path) -> Path:
    make_executable(prefix / "bin" / "python")
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    return prefix


def make_executable(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.mark.parametrize("name", [".venv", "venv", "env"])
def test_the_projects_own_environment_is_used(workspace: Path, name: str) -> None:
    prefix = make_venv(workspace / name)
    found = find_environment({}, workspace, None)
    assert found is not None
    assert found.prefix == prefix


def test_an_activated_environment_beats_the_projects(workspace: Path, tmp_path: Path) -> None:
    make_venv(workspace / ".venv")
    active = make_venv(tmp_path / "active")
    found = find_environment({"VIRTUAL_ENV": os.fsencode(active)}, workspace, None)
    assert found is not None
    assert found.prefix == active


def test_an_activated_environment_that_is_gone_is_passed_over(workspace: Path) -> None:
    prefix = make_venv(workspace / ".venv")
    found = find_environment({"VIRTUAL_ENV": b"/nothing/here"}, workspace, None)
    assert found is not None
    assert found.prefix == prefix


def test_the_laptops_project_is_looked_at_when_it_is_on_this_machine(
    workspace: Path, tmp_path: Path
) -> None:
    prefix = make_venv(tmp_path / "project" / ".venv")
    found = find_environment({}, workspace, tmp_path / "project")
    assert found is not None
    assert found.prefix == prefix


def test_a_folder_called_env_that_is_no_environment_is_passed_over(workspace: Path) -> None:
    make_executable(workspace / "env" / "bin" / "python")
    assert find_environment({}, workspace, None) is None


def test_conda_comes_after_the_projects_own(workspace: Path, tmp_path: Path) -> None:
    conda = tmp_path / "conda"
    make_executable(conda / "bin" / "python")
    env = {"CONDA_PREFIX": os.fsencode(conda)}
    found = find_environment(env, workspace, None)
    assert found is not None
    assert found.prefix == conda
    make_venv(workspace / ".venv")
    found = find_environment(env, workspace, None)
    assert found is not None
    assert found.prefix == workspace / ".venv"


def test_poetrys_environment_is_found_by_the_projects_name(workspace: Path, tmp_path: Path) -> None:
    prefix = make_venv(tmp_path / ".cache/pypoetry/virtualenvs/workspace-AbC-py3.11")
    env = {"HOME": os.fsencode(tmp_path)}
    assert find_environment(env, workspace, None) is None
    (workspace / "poetry.lock").touch()
    found = find_environment(env, workspace, None)
    assert found is not None
    assert found.prefix == prefix


def test_an_environment_is_activated_as_its_script_does(workspace: Path) -> None:
    prefix = make_venv(workspace / ".venv")
    found = find_environment({}, workspace, None)
    env = activated({"PATH": b"/usr/bin:/bin", "PYTHONHOME": b"/x"}, found, None)
    assert env["PATH"] == os.fsencode(prefix / "bin") + b":/usr/bin:/bin"
    assert env["VIRTUAL_ENV"] == os.fsencode(prefix)
    assert "PYTHONHOME" not in env


def test_devloops_own_environment_is_not_the_projects(workspace: Path, tmp_path: Path) -> None:
    own = make_venv(tmp_path / "devloop")
    system = make_executable(tmp_path / "usr" / "python")
    path = os.fsencode(own / "bin") + b":" + os.fsencode(system.parent)
    env = activated({"PATH": path}, find_environment({}, workspace, None), own)
    assert find_command(b"python", env, b"/") == os.fsencode(system)


def test_devloops_own_environment_is_used_when_the_user_activated_it(
    workspace: Path, tmp_path: Path
) -> None:
    own = make_venv(tmp_path / "devloop")
    variables = {"PATH": b"/usr/bin", "VIRTUAL_ENV": os.fsencode(own)}
    env = activated(variables, find_environment(variables, workspace, None), own)
    assert find_command(b"python", env, b"/") == os.fsencode(own / "bin" / "python")


def test_a_path_that_the_user_wrote_wins(workspace: Path, tmp_path: Path) -> None:
    make_venv(workspace / ".venv")
    other = make_executable(tmp_path / "other" / "python3")
    argv = (os.fsencode(other), b"x.py")
    command = resolve_command(argv, {}, os.fsencode(workspace), workspace, None, None)
    assert command.executable == os.fsencode(other)
    assert command.argv == argv


def test_a_script_alone_gets_the_projects_python(workspace: Path) -> None:
    prefix = make_venv(workspace / ".venv")
    argv = (b"x.py", b"a")
    command = resolve_command(argv, {}, os.fsencode(workspace), workspace, None, None)
    assert command.argv == (b"python", b"x.py", b"a")
    assert command.executable == os.fsencode(prefix / "bin" / "python")


def test_python_means_python3_where_there_is_no_other(workspace: Path, tmp_path: Path) -> None:
    only = make_executable(tmp_path / "bin" / "python3")
    env = {"PATH": os.fsencode(only.parent)}
    command = resolve_command((b"python", b"x"), env, b"/", workspace, None, None)
    assert command.executable == os.fsencode(only)


def test_a_console_script_is_a_program_of_its_interpreter(workspace: Path) -> None:
    prefix = make_venv(workspace / ".venv")
    python = os.fsencode(prefix / "bin" / "python")
    script = make_executable(prefix / "bin" / "tool", f"#!{prefix}/bin/python\n")
    command = resolve_command((b"tool", b"a"), {}, os.fsencode(workspace), workspace, None, None)
    assert command.executable == python
    assert command.argv == (python, os.fsencode(script), b"a")
    assert command.program == PythonProgram((), "script", os.fsencode(script), (b"a",))


@pytest.mark.parametrize("name", ["tool", "tool.py"])
@pytest.mark.parametrize("line", ["#!/usr/bin/env python3", "#! /usr/bin/env  python", "own"])
def test_an_executed_script_is_a_program_of_the_projects_python(
    workspace: Path, name: str, line: str
) -> None:
    prefix = make_venv(workspace / ".venv")
    (prefix / "bin" / "python3").symlink_to("python")
    line = f"#!{prefix}/bin/python" if line == "own" else line.replace("  ", " ")
    make_executable(workspace / name, line + "\nimport this\n")
    typed = b"./" + name.encode()
    command = resolve_command((typed, b"a"), {}, os.fsencode(workspace), workspace, None, None)
    assert os.path.dirname(command.executable) == os.fsencode(prefix / "bin")
    assert command.argv[1:] == (typed, b"a")
    assert command.program == PythonProgram((), "script", typed, (b"a",))


def test_an_executed_script_that_names_no_interpreter_is_refused(workspace: Path) -> None:
    make_executable(workspace / "x.py", "import this\n")
    with pytest.raises(CommandNotExecutable) as caught:
        resolve_command((b"./x.py",), {}, os.fsencode(workspace), workspace, None, None)
    assert "python ./x.py" in caught.value.hint


@pytest.mark.parametrize(
    "line", ["#!/bin/sh", "#!/usr/bin/env -S python3", "#!/x/python -E", "plain"]
)
def test_other_scripts_are_execd(workspace: Path, line: str) -> None:
    make_executable(workspace / "tool", line + "\n")
    command = resolve_command((b"./tool",), {}, os.fsencode(workspace), workspace, None, None)
    assert command.program is None
