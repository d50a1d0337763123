"""How the value of a config key is read and refused. Knows the kinds of values, not the keys."""

from __future__ import annotations

import json
import re
import shlex
import signal
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from .errors import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devloop.cafs.ulimits import Ulimit
    from devloop.sync.ports import PortSpec

__all__ = [
    "BadValue",
    "SshClient",
    "bool_from_text",
    "check_variable_name",
    "number_from_text",
    "read_bool",
    "read_choice",
    "read_choice_or_duration",
    "read_command",
    "read_duration",
    "read_gpus",
    "read_image",
    "read_integer",
    "read_keys",
    "read_modules",
    "read_mounts",
    "read_name",
    "read_number",
    "read_patterns",
    "read_ports",
    "read_signal",
    "read_size",
    "read_ssh_client",
    "read_string",
    "read_target",
    "read_tiers",
    "read_ulimits",
    "read_variables",
    "read_words",
    "variables_from_text",
    "words_from_text",
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT])(i?)B")
_POWERS = {"k": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


SshClient: TypeAlias = Literal["auto", "openssh", "paramiko"]


class BadValue(Exception):
    """A value is not of the kind that its key takes. The message completes `KEY …`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _must_be(kind: str, value: object, hint: str = "") -> BadValue:
    return BadValue(f"must be {kind}, not {_shown(value)}", hint)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def read_string(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _must_be("a string", value)
    return value


def read_choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value in choices and isinstance(value, str):
            return value
        known = ", ".join(f'"{choice}"' for choice in choices)
        guess = nearest(value, choices) if isinstance(value, str) else None
        raise _must_be(f"one of {known}", value, f'did you mean "{guess}"?' if guess else "")

    return read


def read_target(value: object) -> str:
    """ "local", or a host as `ssh` takes it."""
    words = read_string(value)
    if words != "local":
        from devloop.sync.ssh.errors import TargetInvalid
        from devloop.sync.ssh.host import parse_host

        try:
            parse_host(words)
        except TargetInvalid as error:
            raise BadValue(f"is not right: {error}", error.hint) from None
    return words


def read_ssh_client(value: object) -> SshClient:
    return cast("SshClient", read_choice(*get_args(SshClient))(value))


def read_image(value: object) -> str:
    """ "host", or a reference, which the box reads."""
    words = value if isinstance(value, str) else ""
    if not words or any(character.isspace() for character in words) or len(words) > 4096:
        raise _must_be("the reference of an image", value, 'such as "ubuntu:24.04" or "oci:./dir"')
    return words


def read_tiers(value: object) -> tuple[str, ...]:
    tiers = read_words(value)
    for tier in tiers:
        if not tier.startswith(("file:///", "http://", "https://", "ssh://")):
            raise BadValue(
                f"holds {_shown(tier)}, which is no place for images",
                'write it as "file:///dir", "https://host/path" or "ssh://host"',
            )
    return tiers


def read_words(value: object) -> tuple[str, ...]:
    words = _strings(value, "an array")
    for word in words:
        if not word or any(character.isspace() for character in word):
            raise BadValue(f"holds {_shown(word)}, which is no single word")
    return words


def read_mounts(value: object) -> tuple[tuple[str, str, bool], ...]:
    """ "/on/the/box:/in/the/container", with ":ro" to make it read-only; one path: the same in
    both."""
    return tuple(map(_mount, _strings(value, "an array")))


def _mount(text: str) -> tuple[str, str, bool]:
    source, *more = text.removesuffix(":ro").split(":")
    target = more[0] if more else source
    if len(more) > 1 or not all(_is_plain_path(path) for path in (source, target)):
        raise BadValue(
            f"holds {_shown(text)}, which is no mount",
            'absolute paths, such as "/data", "/data:/mnt/data" or "/data:/mnt/data:ro"',
        )
    return _normal(source), _normal(target), text.endswith(":ro")


def _is_plain_path(path: str) -> bool:
    return path.startswith("/") and _normal(path) != "/" and ".." not in path.split("/")


def _normal(path: str) -> str:
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


def read_ulimits(value: object) -> dict[str, Ulimit]:
    """`{ nofile = 65536, core = "0:unlimited" }`, as docker has them."""
    from devloop.cafs.ulimits import BadUlimit, parse_ulimit  # few projects pay for it

    if not isinstance(value, dict):
        raise _must_be("a table", value, BadUlimit.hint)
    try:
        return {name: parse_ulimit(name, limit) for name, limit in value.items()}
    except BadUlimit as error:
        raise BadValue(f"cannot be used: {error}", error.hint) from None


def read_name(value: object) -> str:
    name = read_string(value)
    if not _NAME.fullmatch(name):
        raise _must_be("a name of letters, digits, '-' and '_'", value)
    return name


def read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _must_be("true or false", value)
    return value


def bool_from_text(text: str) -> bool:
    if text not in ("true", "false"):
        raise _must_be("true or false", text)
    return text == "true"


def read_number(least: float, most: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _must_be("a number", value)
        if not least <= value <= most:
            raise _must_be(f"from {least:g} to {most:g}", value)
        return float(value)

    return read


def read_command(value: object) -> tuple[str, ...]:
    """A command as an array of words, or as one string that is split as a shell would."""
    words = _split(value) if isinstance(value, str) else _strings(value, "a string or an array")
    if not words or not words[0]:
        raise BadValue(
            "names no command", 'write it as "python train.py" or ["python", "train.py"]'
        )
    return words


def _split(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise BadValue(
            f"cannot be split into words: {str(error).lower()} in {_shown(text)}"
        ) from None


def _strings(value: object, kind: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _must_be(f"{kind} of strings", value)
    for element in value:
        if not isinstance(element, str) or "\0" in element:
            raise BadValue(f"must hold strings only, not {_shown(element)}")
    return tuple(value)


def read_patterns(value: object) -> tuple[str, ...]:
    """Patterns in gitignore syntax; one line each."""
    patterns = _strings(value, "an array")
    for pattern in patterns:
        if not pattern.strip() or "\n" in pattern:
            raise BadValue(f"holds {_shown(pattern)}, which is no pattern")
    return patterns


def read_modules(value: object) -> tuple[str, ...]:
    modules = _strings(value, "an array")
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise BadValue(
                f"holds {_shown(module)}, which is no module name",
                'name modules as in an import statement: ["torch", "numpy.linalg"]',
            )
    return modules


def read_ports(value: object) -> tuple[PortSpec, ...]:
    """Ports as numbers, or as strings that `parse_port` takes."""
    from devloop.sync.ports import BadPort, parse_port  # not every project has some

    if not isinstance(value, list | tuple):
        raise _must_be("an array of ports", value, 'such as [6006, "8888:80"]')
    specs: dict[tuple[str, int], PortSpec] = {}
    for element in value:
        if isinstance(element, bool) or not isinstance(element, int | str):
            raise BadValue(f"must hold ports only, not {_shown(element)}", BadPort.hint)
        try:
            spec = parse_port(str(element))
        except BadPort as error:
            raise BadValue(f"holds what is no port: {error}", error.hint) from None
        if spec[:2] in specs:
            raise BadValue(f"has port {spec.listen_port} on this side twice")
        specs[spec[:2]] = spec
    return tuple(specs.values())


def read_variables(value: object) -> dict[str, str]:
    """Environment variables. No message of this function holds a value: it may be a secret."""
    if not isinstance(value, dict):
        raise BadValue('must be a table, such as { SEED = "1" }')
    for name, text in value.items():
        check_variable_name(name)
        if not isinstance(text, str) or "\0" in text:
            raise BadValue(f"has a value for {name} that is no string", "put it in quotes")
    return dict(value)


def read_keys(value: object) -> dict[str, str]:
    """Commands of the screen, and the keys of each."""
    from devloop.tui.keys import BadKeys, keymap  # hardly any project has some

    if not isinstance(value, dict):
        raise _must_be("a table", value, 'such as { rerun = "f5", find = "/ ctrl+f" }')
    for name, keys in value.items():
        if not isinstance(keys, str):
            raise BadValue(f"has keys for {name} that are no string", 'such as "f5" or "f5 r"')
    try:
        keymap(value)
    except BadKeys as error:
        raise BadValue(str(error), error.hint) from None
    return dict(value)


def check_variable_name(name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise BadValue(f"holds {_shown(name)}, which is no name of an environment variable")


def read_integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _must_be(f"a whole number from {least} to {most}", value)
        return value

    return read


def read_duration(least_s: float, most_s: float) -> Callable[[object], float]:
    """Seconds as a number, or a string with a unit: "500ms", "90s", "30m", "2h"."""

    def read(value: object) -> float:
        seconds = _seconds(value)
        if seconds is None:
            raise _must_be("a duration", value, 'seconds, or a string such as "90s", "30m", "2h"')
        if not least_s <= seconds <= most_s:
            raise _must_be(f"from {least_s:g} to {most_s:g} seconds", value)
        return seconds

    return read


def read_choice_or_duration(*choices: str) -> Callable[[object], str | float]:
    """One of the words, or a duration as a string: "10m"."""

    def read(value: object) -> str | float:
        if isinstance(value, str) and value in choices:
            return value
        seconds = _seconds(value)
        if seconds is None or seconds < 1:
            known = ", ".join(f'"{choice}"' for choice in choices)
            raise _must_be(f"{known}, or a duration of a second or more", value, 'such as "10m"')
        return seconds

    return read


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * _SECONDS[match[2]] if match else None


def read_size(value: object) -> int:
    """Bytes, from "50GB", "1.5 TB" or "20GiB": a bare number would be taken for gigabytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _must_be("a size", value, 'write it as "50GB" or "500MB"')
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit])


def read_gpus(value: object) -> str:
    """A wish for GPUs in its own words: a count, or a string as cafs/gpu_wish.py describes it."""
    from devloop.cafs.gpu_wish import BadWish, parse_wish  # few projects pay for it

    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _must_be("a count or a string", value, BadWish.hint)
    try:
        return str(parse_wish(str(value)))
    except BadWish as error:
        raise BadValue(f"cannot be used: {error}", error.hint) from None


def read_signal(value: object) -> str:
    """A signal's name, with `SIG`. Numbers differ between laptop and box, so none is taken."""
    name = value.upper() if isinstance(value, str) else ""
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signal.Signals.__members__:
        raise _must_be('the name of a signal, such as "SIGHUP"', value)
    return name


def number_from_text(text: str) -> object:
    """The number that `text` holds; other text stays as it is, for the reader to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def words_from_text(text: str) -> Sequence[str]:
    return _split(text)


def variables_from_text(text: str) -> dict[str, str]:
    """`A=1 B='two words'`, as `env` takes it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadValue(f"cannot be split into words: {str(error).lower()}") from None
    if not all("=" in word for word in words):
        raise BadValue("must be NAME=VALUE words")
    return dict(word.split("=", 1) for word in words)
