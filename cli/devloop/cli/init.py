"""`devloop init`: writes a `devloop.toml` from what the directory holds. Overwrites nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError
from .project import CONFIG_NAME, check_root, find_config, find_start

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Findings", "found_words", "look_around", "render_config", "run"]

_ENTRYPOINTS = ("train.py", "main.py", "app.py", "run.py")
_OUTPUTS = ("checkpoints", "outputs", "runs", "wandb", "lightning_logs", "mlruns", "results")

GIT_TIMEOUT_S = 10.0


class Findings(NamedTuple):
    """What a project's directory says about how it is run."""

    command: str  # empty: no entrypoint was recognised
    outputs: tuple[str, ...]  # patterns of directories that runs fill
    env_file: str  # empty: there is none
    interpreter: str  # the project's own virtual environment; empty: there is none
    has_gitignore: bool


def run(args: argparse.Namespace) -> int:
    directory = find_start(args.directory)
    existing = find_config(directory)
    if existing is not None:
        raise ConfigError(f"{existing.path} configures devloop already", hint="edit that file")
    check_root(directory)
    findings = look_around(directory)
    path = directory / CONFIG_NAME
    _write_new(path, render_config(findings))
    sys.stderr.write(f"wrote {path}\n{_next_step(findings)}\n")
    return 0


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="edit that file, or move it away") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _next_step(findings: Findings) -> str:
    if findings.command:
        return f"next: `devloop up` runs `{findings.command}` on each save"
    return f"next: set run.command in {CONFIG_NAME}, or name it: `devloop up -- COMMAND`"


def look_around(directory: Path) -> Findings:
    return Findings(
        command=_find_command(directory),
        outputs=tuple(f"/{name}/" for name in _OUTPUTS if _is_filled_by_runs(directory, name)),
        env_file=".env" if (directory / ".env").is_file() else "",
        interpreter=".venv" if (directory / ".venv" / "pyvenv.cfg").is_file() else "",
        has_gitignore=(directory / ".gitignore").is_file(),
    )


def found_words(findings: Findings) -> Iterator[str]:
    """What is there, and what becomes of it: a line each, for who has configured nothing."""
    if findings.interpreter:
        yield f"{findings.interpreter}: its Python runs the program"
    if findings.env_file:
        yield f"{findings.env_file}: its variables are set for runs"
    for pattern in findings.outputs:
        yield f"{pattern.strip('/')}/: comes back here after each run"
    if findings.has_gitignore:
        yield ".gitignore: what it excludes stays here"


def _is_filled_by_runs(directory: Path, name: str) -> bool:
    """A folder whose files git tracks is source: as an output it would never be uploaded."""
    return (directory / name).is_dir() and not _is_tracked(directory, name)


def _is_tracked(directory: Path, name: str) -> bool:
    import subprocess

    command = ["git", "ls-files", "-z", "--", name]
    try:
        listed = subprocess.run(
            command, cwd=directory, capture_output=True, check=False, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):  # without git, nothing is tracked
        return False
    return bool(listed.stdout)


def _find_command(directory: Path) -> str:
    for name in _ENTRYPOINTS:
        if (directory / name).is_file():
            return f"python {name}"
    return _first_script(directory / "pyproject.toml") or _package(directory)


def _first_script(pyproject: Path) -> str:
    """The first console script that the project defines."""
    import tomllib

    try:
        scripts = tomllib.loads(pyproject.read_text("utf-8")).get("project", {}).get("scripts", {})
    except (OSError, ValueError):  # absent or malformed: then it names nothing
        return ""
    return next(iter(scripts), "") if isinstance(scripts, dict) else ""


def _package(directory: Path) -> str:
    """`python -m` of the only package that can be run so."""
    names = [path.parent.name for path in directory.glob("*/__main__.py")]
    return f"python -m {names[0]}" if len(names) == 1 else ""


def render_config(findings: Findings) -> str:
    """The text of a config file. Keys at their defaults are there as comments, to be edited."""
    lines = [
        "# devloop: save here, run there. Every key, with its default where it is commented out.",
        '# target = "local"            # where runs happen',
        '# image = "host"              # what runs see: that machine\'s own files',
        '# ports = []                  # of the box, to be reached here: [6006, "8888:80"]',
        "",
        "[run]",
        *_setting("command", findings.command, "python train.py", "what `devloop up` runs"),
        *_interpreter_note(findings),
        '# preload = []                # modules to hold ready: ["torch"]; empty: learned',
        '# on_save = "restart"         # or "queue": finish first; or "signal": send save_signal',
        '# save_signal = "SIGHUP"',
        "# stop_timeout = 2            # seconds from Ctrl-C to SIGTERM, and again to the kill",
        '# gpus = 1                    # free ones for each run; or "A100:2", "24GB.."; 0: none',
        '# env = { }                   # { NAME = "value" }',
        *_setting("env_file", findings.env_file, ".env", "NAME=VALUE lines; never printed"),
        "",
        "[sync]",
        f"# ignore = []                 # more patterns that stay here{_ignore_note(findings)}",
        *_list_setting("outputs", findings.outputs, "what runs write and you want back here"),
        "",
        "# [watch]",
        "# debounce_ms = 5             # how long a burst of saves must be quiet",
        "",
        "# [screen]",
        '# theme = "default"           # or "colour-blind", "16"; empty: by the terminal',
        '# keys = { }                  # { rerun = "f5 r" }; a name that is wrong lists them all',
        "",
        "# [agent]",
        '# idle_timeout = "30m"        # ends itself when nothing happened for so long',
        '# store_limit = "50GB"        # what it keeps of files that no project needs now',
    ]
    return "\n".join(lines) + "\n"


def _interpreter_note(findings: Findings) -> list[str]:
    if not findings.interpreter:
        return []
    return [f"# `python` is {findings.interpreter}/bin/python"]


def _ignore_note(findings: Findings) -> str:
    return ", besides .gitignore's" if findings.has_gitignore else ""


def _setting(key: str, value: str, example: str, note: str) -> list[str]:
    prefix = "" if value else "# "
    return [f"{prefix}{key} = {json.dumps(value or example)}".ljust(30) + f"# {note}"]


def _list_setting(key: str, values: tuple[str, ...], note: str) -> list[str]:
    prefix = "" if values else "# "
    return [f"{prefix}{key} = {json.dumps(list(values))}".ljust(30) + f"# {note}"]
