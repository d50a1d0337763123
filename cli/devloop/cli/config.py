"""What the project wants: the keys of `devloop.toml`, their defaults, and what overrides what.

Flags beat environment variables, which beat the file; tables are merged entry by entry. The
variable of a key is its name in capitals: `run.stop_timeout` is `DEVLOOP_RUN_STOP_TIMEOUT`; an
empty variable counts as absent. Knows neither the agent nor a terminal.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeGuard, TypeVar, cast

from . import config_values as kinds
from .config_values import BadValue
from .dotenv import read_dotenv
from .errors import ConfigError, nearest
from .project import ConfigFile, check_root, find_project, find_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from devloop.cafs.ulimits import Ulimit
    from devloop.sync.ports import PortSpec

    from .config_values import SshClient

__all__ = [
    "HOST_IMAGE",
    "KEYS",
    "AgentConfig",
    "Config",
    "ContainerConfig",
    "RunConfig",
    "ScreenConfig",
    "SshConfig",
    "SyncConfig",
    "WatchConfig",
    "load_config",
    "run_environment",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RunConfig(NamedTuple):
    command: tuple[str, ...]  # empty: none is configured
    preload: tuple[str, ...]  # modules; empty: learn them
    env: Mapping[str, str]  # may hold secrets
    env_file: Path | None
    on_save: str  # "restart" | "queue" | "signal"
    save_signal: str  # a name such as "SIGHUP": numbers differ between systems
    stop_timeout_s: float
    gpus: str  # a wish, see cafs/gpu_wish.py; empty: what a run sees is left alone
    on_disconnect: str | float  # "stop", "continue", or seconds without a client; "" = not said

    def __repr__(self) -> str:
        """Without the environment."""
        return f"RunConfig(command={self.command!r}, env=…)"


class SyncConfig(NamedTuple):
    ignore: tuple[str, ...]  # gitignore syntax
    outputs: tuple[str, ...]  # gitignore syntax


class WatchConfig(NamedTuple):
    debounce_ms: int


class AgentConfig(NamedTuple):
    idle_timeout_s: float
    store_limit_bytes: int
    python: str  # the interpreter to use on a box; empty: the newest that is there


class ContainerConfig(NamedTuple):
    mounts: tuple[tuple[str, str, bool], ...]  # source on the box, target inside, read-only
    network: str  # "host" | "isolated"
    shm_bytes: int  # 0: half of the box's memory
    memory_bytes: int  # 0: no limit
    cpus: float  # 0: no limit
    keep: str  # a name for the writable layer; empty: it is thrown away
    caches: bool
    user: str  # empty: the image's own
    ulimits: Mapping[str, Ulimit]  # by their names


class SshConfig(NamedTuple):
    client: SshClient
    config_file: Path | None  # instead of ~/.ssh/config and /etc/ssh/ssh_config
    connect_timeout_s: float
    persist_s: float  # how long a connection stays for the next command; 0: not at all


class ScreenConfig(NamedTuple):
    theme: str  # empty: what suits the terminal
    keys: Mapping[str, str]  # the name of a command to its keys, separated by blanks


class Config(NamedTuple):
    root: Path  # absolute, without symbolic links
    source_file: Path | None  # None: no configuration was found
    target: str
    image: str  # "host", or a reference
    store: tuple[str, ...]  # tiers where blobs of images are looked for, nearest first
    registry_mirrors: tuple[str, ...]
    insecure_registries: tuple[str, ...]
    container: ContainerConfig
    run: RunConfig
    sync: SyncConfig
    watch: WatchConfig
    agent: AgentConfig
    ports: tuple[PortSpec, ...]
    ssh: SshConfig
    screen: ScreenConfig


class Key(NamedTuple, Generic[T_co]):
    """One key: its full name, how its value is read, and how text becomes a value first."""

    name: str
    read: Callable[[object], T_co]
    default: T_co
    from_text: Callable[[str], object] = str

    @property
    def variable(self) -> str:
        return "DEVLOOP_" + self.name.upper().replace(".", "_")


_NOTHING: tuple[str, ...] = ()
HOST_IMAGE = "host"  # the box's own files

TARGET = Key("target", kinds.read_target, "local")
IMAGE = Key("image", kinds.read_image, HOST_IMAGE)
STORE = Key("store", kinds.read_tiers, _NOTHING, kinds.words_from_text)
MIRRORS = Key("registry.mirrors", kinds.read_words, _NOTHING, kinds.words_from_text)
INSECURE = Key("registry.insecure", kinds.read_words, _NOTHING, kinds.words_from_text)
MOUNTS: Key[tuple[tuple[str, str, bool], ...]] = Key(
    "container.mounts", kinds.read_mounts, (), kinds.words_from_text
)
NETWORK = Key("container.network", kinds.read_choice("host", "isolated"), "host")
SHM_SIZE = Key("container.shm_size", kinds.read_size, 0)
MEMORY = Key("container.memory", kinds.read_size, 0)
CPUS = Key("container.cpus", kinds.read_number(0.01, 4096), 0.0, kinds.number_from_text)
KEEP = Key("container.keep", kinds.read_name, "")
CACHES = Key("container.caches", kinds.read_bool, True, kinds.bool_from_text)
USER = Key("container.user", kinds.read_string, "")
ULIMITS: Key[dict[str, Ulimit]] = Key(
    "container.ulimits", kinds.read_ulimits, {}, kinds.variables_from_text
)
COMMAND = Key("run.command", kinds.read_command, _NOTHING)
PRELOAD = Key("run.preload", kinds.read_modules, _NOTHING, kinds.words_from_text)
ENV: Key[dict[str, str]] = Key("run.env", kinds.read_variables, {}, kinds.variables_from_text)
ENV_FILE = Key("run.env_file", kinds.read_string, "")
ON_SAVE = Key("run.on_save", kinds.read_choice("restart", "queue", "signal"), "restart")
SAVE_SIGNAL = Key("run.save_signal", kinds.read_signal, "SIGHUP")
STOP_TIMEOUT = Key("run.stop_timeout", kinds.read_duration(0.1, 3600), 2.0, kinds.number_from_text)
GPUS = Key("run.gpus", kinds.read_gpus, "")
ON_DISCONNECT: Key[str | float] = Key(
    "run.on_disconnect", kinds.read_choice_or_duration("stop", "continue"), ""
)
IGNORE = Key("sync.ignore", kinds.read_patterns, _NOTHING, kinds.words_from_text)
OUTPUTS = Key("sync.outputs", kinds.read_patterns, _NOTHING, kinds.words_from_text)
DEBOUNCE = Key("watch.debounce_ms", kinds.read_integer(1, 10_000), 5, kinds.number_from_text)
PORTS: Key[tuple[PortSpec, ...]] = Key("ports", kinds.read_ports, (), kinds.words_from_text)
IDLE_TIMEOUT = Key(
    "agent.idle_timeout", kinds.read_duration(1, 604_800), 1800.0, kinds.number_from_text
)
AGENT_PYTHON = Key("agent.python", kinds.read_string, "")
SSH_CLIENT: Key[SshClient] = Key("ssh.client", kinds.read_ssh_client, "auto")
SSH_CONFIG = Key("ssh.config", kinds.read_string, "")
SSH_TIMEOUT = Key("ssh.connect_timeout", kinds.read_duration(1, 600), 10.0, kinds.number_from_text)
SSH_PERSIST = Key("ssh.persist", kinds.read_duration(0, 86_400), 60.0, kinds.number_from_text)
THEME = Key("screen.theme", kinds.read_string, "")
SCREEN_KEYS: Key[dict[str, str]] = Key(
    "screen.keys", kinds.read_keys, {}, kinds.variables_from_text
)
STORE_LIMIT = Key("agent.store_limit", kinds.read_size, 50 * 10**9)

_ALL: tuple[Key[object], ...] = (
    *(TARGET, IMAGE, STORE, MIRRORS, INSECURE, MOUNTS, NETWORK, SHM_SIZE, MEMORY, CPUS, KEEP),
    *(CACHES, USER, ULIMITS),
    *(COMMAND, PRELOAD, ENV, ENV_FILE, ON_SAVE, SAVE_SIGNAL, STOP_TIMEOUT),
    *(IGNORE, OUTPUTS, DEBOUNCE, IDLE_TIMEOUT, STORE_LIMIT),
    *(GPUS, PORTS, ON_DISCONNECT, AGENT_PYTHON, SSH_CLIENT, SSH_CONFIG, SSH_TIMEOUT, SSH_PERSIST),
    *(THEME, SCREEN_KEYS),
)
KEYS: Mapping[str, Key[object]] = {key.name: key for key in _ALL}
_TABLES = {name.split(".")[0] for name in KEYS if "." in name}


class _Values:
    """The values of all layers so far; a later layer beats the ones before."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def __getitem__(self, key: Key[T]) -> T:
        return cast("T", self._values.get(key.name, key.default))

    def add(self, key: Key[object], value: object, where: Callable[[], str]) -> None:
        """Reads `value`. Raises ConfigError, which starts with `where()`, when it cannot be."""
        try:
            new = key.read(value)
        except BadValue as error:
            raise ConfigError(f"{where()}: {key.name} {error}", hint=error.hint) from None
        old = self._values.get(key.name)
        self._values[key.name] = {**old, **new} if _is_table(old) and _is_table(new) else new


def _is_table(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def load_config(
    start: str | os.PathLike[str] | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    will_sync: bool = True,
) -> Config:
    """The configuration of the project that holds `start` (by default the current directory).

    `flags` maps key names, such as "run.command", to values as the file would hold them.
    Raises ConfigError when anything in a layer is unknown or malformed, or when the caller
    `will_sync` a root that must not be synced and nobody at a terminal confirms it.
    """
    project = find_project(find_start(start))
    values = _Values()
    if project.file is not None:
        _add_file(values, project.file)
    _add_environment(values, os.environ if environ is None else environ)
    for name, value in (flags or {}).items():
        values.add(KEYS[name], value, lambda: "command line")
    if will_sync:
        check_root(project.root)
    config = _build(values, project.root, project.file)
    _refuse_ports_of_nobody(config)
    return config


def _refuse_ports_of_nobody(config: Config) -> None:
    """The box's own loopback is not that of an isolated container."""
    isolated = config.image != HOST_IMAGE and config.container.network == "isolated"
    cut_off = [spec for spec in config.ports if spec.host == "localhost"]
    if isolated and cut_off:
        raise ConfigError(
            f"ports: {cut_off[0].port} of the box cannot lead into a container with "
            'container.network = "isolated"',
            hint='leave `ports` out, or use `container.network = "host"`',
        )


def _add_file(values: _Values, file: ConfigFile) -> None:
    for path, value in _leaves(file.values):
        name = ".".join(path)
        if name in KEYS:
            values.add(KEYS[name], value, partial(file.where, path))
        elif name in _TABLES:
            raise ConfigError(f"{file.where(path)}: {name} must be a table", hint=f"[{name}]")
        else:
            raise ConfigError(f"{file.where(path)}: unknown key {name}", hint=_suggestion(name))


def _leaves(
    values: Mapping[str, object], table: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """The keys of a file with their values; only the known tables are entered."""
    for name, value in values.items():
        path = (*table, name)
        if not table and name in _TABLES and isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path, value


def _suggestion(name: str) -> str:
    guess = nearest(name, [*KEYS, *_TABLES])
    return f"did you mean {guess}?" if guess else "the keys are " + ", ".join(KEYS)


def _add_environment(values: _Values, environ: Mapping[str, str]) -> None:
    for key in _ALL:
        text = environ.get(key.variable)
        if not text:
            continue
        where = f"environment: {key.variable}"
        try:
            value = key.from_text(text)
        except BadValue as error:
            raise ConfigError(f"{where} {error}", hint=error.hint) from None
        values.add(key, value, partial(str, where))


def _build(values: _Values, root: Path, file: ConfigFile | None) -> Config:
    run = RunConfig(
        command=values[COMMAND],
        preload=values[PRELOAD],
        env=values[ENV],
        env_file=root / values[ENV_FILE] if values[ENV_FILE] else None,
        on_save=values[ON_SAVE],
        save_signal=values[SAVE_SIGNAL],
        stop_timeout_s=values[STOP_TIMEOUT],
        gpus=values[GPUS],
        on_disconnect=values[ON_DISCONNECT],
    )
    return Config(
        root=root,
        source_file=file.path if file is not None else None,
        target=values[TARGET],
        image=values[IMAGE],
        store=values[STORE],
        registry_mirrors=values[MIRRORS],
        insecure_registries=values[INSECURE],
        container=ContainerConfig(
            mounts=values[MOUNTS],
            network=values[NETWORK],
            shm_bytes=values[SHM_SIZE],
            memory_bytes=values[MEMORY],
            cpus=values[CPUS],
            keep=values[KEEP],
            caches=values[CACHES],
            user=values[USER],
            ulimits=values[ULIMITS],
        ),
        run=run,
        sync=SyncConfig(values[IGNORE], values[OUTPUTS]),
        watch=WatchConfig(values[DEBOUNCE]),
        agent=AgentConfig(values[IDLE_TIMEOUT], values[STORE_LIMIT], values[AGENT_PYTHON]),
        ports=values[PORTS],
        ssh=SshConfig(
            values[SSH_CLIENT],
            root / Path(values[SSH_CONFIG]).expanduser() if values[SSH_CONFIG] else None,
            values[SSH_TIMEOUT],
            values[SSH_PERSIST],
        ),
        screen=ScreenConfig(values[THEME], values[SCREEN_KEYS]),
    )


def run_environment(run: RunConfig) -> dict[str, str]:
    """What the project adds to a run's environment: `run.env_file`, and over it `run.env`.

    Reads the file at each call, so that a run gets what was saved. Raises ConfigError.
    """
    from_file = read_dotenv(run.env_file) if run.env_file is not None else {}
    return {**from_file, **run.env}
