"""The verbs: where each is carried out, its flags, and one example. Parses nothing itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from devloop.sync.ports import PortSpec

__all__ = ["IMAGE_ACTIONS", "SHELLS", "VERBS", "Verb"]

SHELLS = ("bash", "zsh", "fish")
IMAGE_ACTIONS = ("pull", "push", "ls", "inspect", "rm", "gc", "verify")


class Verb(NamedTuple):
    """A verb: where it is carried out, and what it reads from the command line."""

    module: str
    function: str  # (argparse.Namespace) -> int
    summary: str
    words: str  # what follows the flags, for people
    example: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    takes_command: bool = False


def _no_flags(parser: argparse.ArgumentParser) -> None:
    """A verb without flags of its own."""


def _up_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--plain", help="line by line, as also where there is no terminal")
    _add_run_flags(parser)


def _exec_flags(parser: argparse.ArgumentParser) -> None:
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument(
        *("-t", "--tty"), action="store_true", default=None, help="give the command a terminal"
    )
    terminal.add_argument(
        *("-T", "--no-tty"), action="store_false", dest="tty", help="give it pipes"
    )
    _flag(parser, "--json", help="print one event a line")
    _flag(parser, "-d", "--detach", help="print the run's number and return")
    _flag(parser, "-q", "--quiet", help="print the command's output and nothing else")
    _flag(parser, "--fresh", help="begin in a new container of the image, and with nothing warm")
    _add_run_flags(parser)


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--no-warm",), action="store_false", dest="warm", help="start Python afresh, never forked"
    )
    parser.add_argument(
        *("-e", "--env"),
        action="append",
        type=_variable,
        default=[],
        metavar="K=V",
        help="set a variable of the command's environment; may be repeated",
    )
    parser.add_argument(
        "--gpus",
        metavar="WISH",
        help='pick free GPUs for it: 1, "A100:2", "24GB.."; 0 hides them all',
    )
    _add_image(parser, "; without a command and run.command, what the image runs by itself")


def _add_image(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--image",
        metavar="REFERENCE",
        help=f'run in a container of this image; "host": among the box\'s own files{more}',
    )


def _gpus_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--json", help="print one object with everything")


def _logs_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "-f", "--follow", help="go on while the run does")
    _add_run(parser)


def _ps_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "-a", "--all", help="of every project, and those that have ended")


def _stop_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--kill", help="at once, without asking the program to end")
    _add_run(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("run",), nargs="?", type=_run_number, metavar="RUN", help="its number; default: the last"
    )


def _forward_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("ports",),
        nargs="*",
        type=_port,
        default=[],
        metavar="PORT",
        help="PORT, HERE:THERE or HERE:HOST:THERE; default: those of devloop.toml",
    )
    parser.add_argument(
        *("-R", "--reverse"),
        action="append",
        type=_port,
        default=[],
        metavar="PORT",
        help="a port of the box that leads here: PORT, THERE:HERE or THERE:HOST:HERE",
    )


def _shell_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--no-sync",), action="store_false", dest="sync", help="leave the files there as they are"
    )
    parser.add_argument(
        *("-e", "--env"),
        action="append",
        type=_variable,
        default=[],
        metavar="K=V",
        help="set a variable of the shell's environment; may be repeated",
    )
    _add_image(parser)


def _image_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=IMAGE_ACTIONS, metavar="ACTION", help="what to do")
    parser.add_argument(
        *("words",), nargs="*", metavar="REFERENCE", help="default: the project's own image"
    )
    parser.add_argument(
        "--to", metavar="PLACE", help='of push: "file:///dir" or "ssh://host"; default: store[0]'
    )
    _flag(parser, "--json", help="print one object with everything")


def _clean_flags(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="of every project")
    which.add_argument(
        "--gone", action="store_true", help="of projects whose folder here is there no more"
    )
    _flag(parser, "--layers", help="what container.keep keeps, instead of the project")
    _flag(parser, "--caches", help="the caches of runs in images, instead of the project")
    _flag(parser, "-n", "--dry-run", help="only show what would go")
    _flag(parser, "-y", "--yes", help="ask nothing")


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--repair", help="read all that the store holds, and drop what is damaged")


def _completion_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _flag(parser: argparse.ArgumentParser, *names: str, help: str) -> None:  # noqa: A002 - argparse
    parser.add_argument(*names, action="store_true", help=help)


def _run_number(text: str) -> int:
    digits = text.removeprefix("#")
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 1 << 63):
        raise argparse.ArgumentTypeError(f"{text} is not the number of a run; `devloop ps -a`")
    return int(digits)


def _port(text: str) -> PortSpec:
    from devloop.sync.ports import BadPort, parse_port

    try:
        return parse_port(text)
    except BadPort as error:
        raise UsageError(str(error), hint=error.hint) from None


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError("a variable is set as NAME=VALUE")
    return name, value


_RUNS = "devloop.cli.runs"
_AGENT = "devloop.cli.agent_verbs"

VERBS: dict[str, Verb] = {
    "init": Verb(
        "devloop.cli.init",
        "run",
        "write a devloop.toml for this project",
        "",
        "devloop init",
        _no_flags,
    ),
    "up": Verb(
        "devloop.cli.up",
        "run",
        "watch, sync, and run again on each save",
        "[[--] COMMAND …]",
        "devloop up --plain -- python train.py --lr 3e-4",
        _up_flags,
        takes_command=True,
    ),
    "exec": Verb(
        "devloop.cli.exec",
        "run",
        "sync, run a command once, and exit as it did",
        "[[--] COMMAND …]",
        "devloop exec -- python train.py --lr 3e-4",
        _exec_flags,
        takes_command=True,
    ),
    "shell": Verb(
        "devloop.cli.shell",
        "run",
        "open a shell, or another interactive command, where runs run",
        "[[--] COMMAND …]",
        "devloop shell",
        _shell_flags,
        takes_command=True,
    ),
    "forward": Verb(
        "devloop.cli.forward",
        "run",
        "forward ports to the box, and with -R from it",
        "[PORT …]",
        "devloop forward 6006 8888:80 -R 3000",
        _forward_flags,
    ),
    "logs": Verb(
        _RUNS, "logs", "print the output of a run", "[RUN]", "devloop logs -f 3", _logs_flags
    ),
    "ps": Verb(_RUNS, "ps", "list the runs", "", "devloop ps -a", _ps_flags),
    "gpus": Verb(
        "devloop.cli.gpus",
        "run",
        "list the GPUs, who uses them and which are free",
        "",
        "devloop gpus",
        _gpus_flags,
    ),
    "stop": Verb(
        _RUNS, "stop", "end a run and everything it started", "[RUN]", "devloop stop 3", _stop_flags
    ),
    "attach": Verb(
        _RUNS,
        "attach",
        "follow a run and type into it; Ctrl-\\ (in a terminal run: Enter ~.) detaches",
        "[RUN]",
        "devloop attach 3",
        _add_run,
    ),
    "pull": Verb(_RUNS, "pull", "fetch the outputs of the runs", "", "devloop pull", _no_flags),
    "image": Verb(
        "devloop.cli.image",
        "run",
        "bring images to the box, list them, pass them on, remove them",
        "{pull,push,ls,inspect,rm,gc,verify} [REFERENCE …]",
        "devloop image pull python:3.12-slim",
        _image_flags,
    ),
    "clean": Verb(
        "devloop.cli.clean",
        "run",
        "show what projects take on the box, and give it back",
        "",
        "devloop clean --gone",
        _clean_flags,
    ),
    "down": Verb(_AGENT, "down", "end the agent and its runs", "", "devloop down", _no_flags),
    "doctor": Verb(
        _AGENT,
        "doctor",
        "say what works here and what would work better",
        "",
        "devloop doctor",
        _doctor_flags,
    ),
    "version": Verb(
        _AGENT,
        "version",
        "print the versions of client and agent",
        "",
        "devloop version",
        _no_flags,
    ),
    "completion": Verb(
        "devloop.cli.completion",
        "run",
        "print the completion script of a shell",
        "{bash,zsh,fish}",
        'eval "$(devloop completion bash)"',
        _completion_flags,
    ),
}
