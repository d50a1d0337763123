"""The config file, the environment and the flags."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cli.config import KEYS, load_config, run_environment
from devloop.cli.errors import ConfigError

EVERYTHING = """\
target = "me@gpu1:2222"
ports = ["6006:db:5432", "8888:web:80"]
image = "registry.example/team/train:1"
store = ["ssh://gpu2", "file:///srv/images"]

[registry]
mirrors = ["mirror.example"]
insecure = ["registry.example:5000"]

[container]
mounts = ["/data/", "//big:/mnt/./big/:ro"]
network = "isolated"
shm_size = "8GB"
memory = "64GB"
cpus = 2.5
keep = "mine"
caches = false
user = "1000:1000"
ulimits = { nofile = 65536, memlock = "unlimited", core = "0:-1" }

[run]
command = "python train.py --name 'a b'"
preload = ["torch", "numpy.linalg"]
env = { SEED = "1" }
env_file = ".env"
on_save = "signal"
save_signal = "usr1"
stop_timeout = "500ms"
gpus = "a100 : 2"
on_disconnect = "10m"

[sync]
ignore = ["*.ckpt"]
outputs = ["checkpoints/"]

[watch]
debounce_ms = 20

[agent]
idle_timeout = "2h"
store_limit = "1.5 GB"
python = "/opt/python3"

[ssh]
client = "paramiko"
config = "ssh_config"
connect_timeout = 3
persist = "5m"

[screen]
theme = "colour-blind"
keys = { rerun = "f5 r", find = "ctrl+f" }
"""


def test_without_configuration_the_defaults_hold(project: Path) -> None:
    config = load_config()
    assert (config.root, config.source_file) == (project, None)
    assert (config.target, config.image) == ("local", "host")
    assert (config.run.command, config.run.preload, config.run.env) == ((), (), {})
    assert (config.run.on_save, config.run.save_signal) == ("restart", "SIGHUP")
    assert (config.run.stop_timeout_s, config.agent.idle_timeout_s) == (2.0, 1800.0)
    assert config.run.gpus == ""
    assert (config.sync.ignore, config.sync.outputs, config.watch.debounce_ms) == ((), (), 5)
    assert config.agent.store_limit_bytes == 50_000_000_000


def test_every_key_of_the_file_is_read(project: Path) -> None:
    (project / "devloop.toml").write_text(EVERYTHING)
    config = load_config()
    assert config.source_file == project / "devloop.toml"
    assert config.run.command == ("python", "train.py", "--name", "a b")
    assert config.run.preload == ("torch", "numpy.linalg")
    assert config.run.env == {"SEED": "1"}
    assert config.run.env_file == project / ".env"
    assert (config.run.on_save, config.run.save_signal) == ("signal", "SIGUSR1")
    assert (config.run.stop_timeout_s, config.agent.idle_timeout_s) == (0.5, 7200.0)
    assert config.run.gpus == "a100:2"
    assert (config.sync.ignore, config.sync.outputs) == (("*.ckpt",), ("checkpoints/",))
    assert config.watch.debounce_ms == 20
    assert config.agent.store_limit_bytes == 1_500_000_000
    assert (config.target, config.run.on_disconnect) == ("me@gpu1:2222", 600.0)
    assert config.ssh == ("paramiko", project / "ssh_config", 3.0, 300.0)
    assert config.agent.python == "/opt/python3"
    assert config.screen == ("colour-blind", {"rerun": "f5 r", "find": "ctrl+f"})
    assert list(map(str, config.ports)) == ["6006:db:5432", "8888:web:80"]
    assert config.image == "registry.example/team/train:1"
    assert config.store == ("ssh://gpu2", "file:///srv/images")
    assert config.registry_mirrors == ("mirror.example",)
    assert config.insecure_registries == ("registry.example:5000",)
    mounts = (("/data", "/data", False), ("/big", "/mnt/big", True))
    limits = (8 * 10**9, 64 * 10**9, 2.5)
    *others, ulimits = config.container
    assert others == [mounts, "isolated", *limits, "mine", False, "1000:1000"]
    assert list(ulimits.values()) == [
        *(("nofile", 65536, 65536), ("memlock", -1, -1), ("core", 0, -1)),
    ]
    assert all(name.split(".")[-1] in EVERYTHING for name in KEYS)


def _error(project: Path, text: str) -> tuple[str, str]:
    (project / "devloop.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config()
    return str(caught.value), caught.value.hint


def test_an_unknown_key_names_file_line_and_nearest_key(project: Path) -> None:
    text = '# first\n\n[run]\ncommand = """\na\nb"""\non_sav = "queue"\n'
    assert _error(project, text) == (
        "devloop.toml:7: unknown key run.on_sav",
        "did you mean run.on_save?",
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("runn = 1", "devloop.toml:1: unknown key runn", "did you mean run?"),
        ("on_save = 'queue'", "devloop.toml:1: unknown key on_save", "run.on_save"),
        ("\nrun = 3", "devloop.toml:2: run must be a table", "[run]"),
        ("xyzzy.a = 3", "devloop.toml:1: unknown key xyzzy", "the keys are target,"),
        ("target = '-oX'", "devloop.toml:1: target is not right: '-oX' is no SSH", "~/.ssh/config"),
        ("image = ''", "devloop.toml:1: image must be the reference of an image", "oci:./dir"),
        ("image = 'a b'", "devloop.toml:1: image must be the reference of an image", "oci:./dir"),
        (
            "store = ['/srv']",
            'devloop.toml:1: store holds "/srv", which is no place',
            "file:///dir",
        ),
        ("container.mounts = ['a:b']", 'devloop.toml:1: container.mounts holds "a:b"', "/mnt/data"),
        ("container.mounts = ['/a/../b']", "devloop.toml:1: container.mounts holds", "/mnt/data"),
        ("container.cpus = 0", "devloop.toml:1: container.cpus must be from 0.01 to 4096", ""),
        ("container.keep = '../x'", "devloop.toml:1: container.keep must be a name", ""),
        ("container.ulimits = 3", "devloop.toml:1: container.ulimits must be a table", "nofile"),
        (
            "container.ulimits = {files = 3}",
            "devloop.toml:1: container.ulimits cannot be used: no limit is called 'files'",
            "nofile",
        ),
        ("container.caches = 1", "devloop.toml:1: container.caches must be true or false", ""),
        ("registry.mirrors = ['']", 'devloop.toml:1: registry.mirrors holds ""', ""),
        ("[run]\non_save = 'que'", 'devloop.toml:2: run.on_save must be one of "re', '"queue"?'),
        ("run.command = 3", "devloop.toml:1: run.command must be a string or an array of", ""),
        ("run.command = ''", "devloop.toml:1: run.command names no command", "python train.py"),
        ("""run.command = "a 'b" """, "devloop.toml:1: run.command cannot be split", ""),
        ("run.command = ['a', 1]", "devloop.toml:1: run.command must hold strings only", ""),
        ("run.env.A = 1", "devloop.toml:1: run.env has a value for A that is no string", "quotes"),
        ("run.env = {'A=B' = ''}", 'devloop.toml:1: run.env holds "A=B", which is no name', ""),
        ("run.preload = ['a-b']", 'devloop.toml:1: run.preload holds "a-b"', "import statement"),
        ("run.stop_timeout = true", "devloop.toml:1: run.stop_timeout must be a duration", '"90s"'),
        ("run.stop_timeout = nan", "devloop.toml:1: run.stop_timeout must be from 0.1 to 3600", ""),
        ("run.stop_timeout = '5 d'", "devloop.toml:1: run.stop_timeout must be a duration", ""),
        ("run.gpus = true", "devloop.toml:1: run.gpus must be a count or a string", '"A100:2"'),
        ("run.gpus = 4090", "devloop.toml:1: run.gpus cannot be used: 4090 GPUs", '"RTX 4090"'),
        ("run.gpus = '9GB..8GB'", "devloop.toml:1: run.gpus cannot be used: ", '"24GB.."'),
        ("run.save_signal = 'FOO'", "devloop.toml:1: run.save_signal must be the name of a", ""),
        ("watch.debounce_ms = 1.5", "devloop.toml:1: watch.debounce_ms must be a whole number", ""),
        ("agent.store_limit = 50", "devloop.toml:1: agent.store_limit must be a size", '"50GB"'),
        ("agent.store_limit = '5'", "devloop.toml:1: agent.store_limit must be a size", '"50GB"'),
        ("ports = 6006", "devloop.toml:1: ports must be an array of ports, not 6006", '"8888:80"'),
        ("ports = [true]", "devloop.toml:1: ports must hold ports only, not true", "PORT"),
        ("ports = ['x']", 'devloop.toml:1: ports holds what is no port: "x" is no port', "PORT"),
        ("ports = [80, '80:1']", "devloop.toml:1: ports has port 80 on this side twice", ""),
        ("screen.keys = 'f5'", "devloop.toml:1: screen.keys must be a table", 'rerun = "f5"'),
        ("screen.keys.rerun = 5", "devloop.toml:1: screen.keys has keys for rerun", '"f5 r"'),
        ("screen.keys.go = 'f5'", "devloop.toml:1: screen.keys knows no command go", "rerun, "),
        ("screen.keys = {rerun='/', find='/'}", "devloop.toml:1: screen.keys has / for two", ""),
        ("sync.ignore = 'x'", "devloop.toml:1: sync.ignore must be an array of strings", ""),
        ("a = 1\nb = = 2", "devloop.toml:2:5: ", "correct the TOML"),
        ("a = [1,\n", "devloop.toml:2:1: ", "correct the TOML"),
        ("a = " + "[" * 5000, "devloop.toml: nested too deeply", ""),
    ],
)
def test_bad_input_gets_one_clear_error(project: Path, text: str, message: str, hint: str) -> None:
    error, said = _error(project, text)
    assert error.startswith(message)
    assert hint in said


def test_a_file_that_is_not_utf8_is_named(project: Path) -> None:
    (project / "devloop.toml").write_bytes(b'target = "\xff"')
    with pytest.raises(ConfigError, match=r"devloop\.toml: not UTF-8 at byte 10"):
        load_config()


def test_pyproject_may_hold_the_configuration(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.devloop.run]\ncommand = ["make"]\n')
    config = load_config()
    assert config.run.command == ("make",)
    assert config.source_file == project / "pyproject.toml"


def test_an_error_in_pyproject_names_its_line(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project]\nname='x'\n[tool.devloop]\nimages='x'\n")
    with pytest.raises(ConfigError, match=r"^pyproject\.toml:4: unknown key images$"):
        load_config()


def test_a_pyproject_of_somebody_else_is_never_an_error(project: Path) -> None:
    (project / "pyproject.toml").write_text("this is [ not toml")
    assert load_config().source_file is None
    (project / "pyproject.toml").write_text('[project]\nname = "devloop"\n')
    assert load_config().source_file is None


def test_two_files_that_both_configure_are_an_error(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.devloop]\ntarget = 'local'\n")
    (project / "devloop.toml").write_text("# nothing yet\n")
    assert load_config().source_file == project / "pyproject.toml"
    (project / "devloop.toml").write_text("target = 'local'\n")
    with pytest.raises(ConfigError, match=r"^both devloop\.toml and") as caught:
        load_config()
    assert "keep one" in caught.value.hint


def test_flags_beat_environment_beats_file(project: Path) -> None:
    (project / "devloop.toml").write_text(EVERYTHING)
    environ = {
        "DEVLOOP_RUN_ON_SAVE": "restart",
        "DEVLOOP_RUN_COMMAND": "make it",
        "DEVLOOP_RUN_STOP_TIMEOUT": "3",
        "DEVLOOP_SYNC_OUTPUTS": "a 'b c'",
        "DEVLOOP_RUN_ENV": "LR=2 NAME='x y'",
        "DEVLOOP_WATCH_DEBOUNCE_MS": "",
    }
    flags = {"run.command": ["sh"], "run.env": {"LR": "3"}}
    config = load_config(flags=flags, environ=environ)
    assert config.run.on_save == "restart"
    assert config.run.command == ("sh",)
    assert config.run.stop_timeout_s == 3.0
    assert config.sync.outputs == ("a", "b c")
    assert config.run.env == {"SEED": "1", "LR": "3", "NAME": "x y"}
    assert config.watch.debounce_ms == 20


def test_a_bad_variable_is_named(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"^environment: DEVLOOP_WATCH_DEBOUNCE_MS: watch\.d"):
        load_config(environ={"DEVLOOP_WATCH_DEBOUNCE_MS": "soon"})
    with pytest.raises(ConfigError, match=r"^environment: DEVLOOP_RUN_ENV must be NAME=VALUE"):
        load_config(environ={"DEVLOOP_RUN_ENV": "s3cret"})


def test_secrets_are_in_no_repr_and_no_message(project: Path) -> None:
    (project / "devloop.toml").write_text('run.env = { TOKEN = "s3cret" }')
    assert "s3cret" not in repr(load_config())
    for text in ("run.env = 's3cret'", "run.env.T = ['s3cret']", "run.env.T = 's3cret"):
        assert "s3cret" not in "".join(_error(project, text))


def test_the_env_file_is_read_at_each_run_and_env_beats_it(project: Path) -> None:
    (project / "devloop.toml").write_text("[run]\nenv_file = '.env'\nenv = { A = 'toml' }\n")
    config = load_config()
    (project / ".env").write_text("A=file\nB=1\n")
    assert run_environment(config.run) == {"A": "toml", "B": "1"}
    (project / ".env").write_text("B=2\n")
    assert run_environment(config.run) == {"A": "toml", "B": "2"}


NAMES = st.sampled_from([*KEYS, "run", "sync", "tool", "x", "run.env.A", "run.x"])
VALUES = st.recursive(
    st.integers()
    | st.booleans()
    | st.floats()
    | st.sampled_from(["", "local", "5s", "a 'b", "\0"]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=4,
)


def test_ports_that_cannot_reach_into_an_isolated_container_are_refused(tmp_path: Path) -> None:
    text = 'image = "a/b"\nports = [6006]\n[container]\nnetwork = "isolated"\n'
    (tmp_path / "devloop.toml").write_text(text)
    with pytest.raises(ConfigError, match="ports: 6006 of the box") as refused:
        load_config(tmp_path, environ={})
    assert "leave `ports` out" in refused.value.hint
    (tmp_path / "devloop.toml").write_text(text.replace("a/b", "host"))
    assert load_config(tmp_path, environ={}).ports


@given(NAMES, VALUES)
def test_any_value_of_any_key_is_read_or_refused_with_a_place(name: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "devloop.toml")
        file.write_text(f"{name} = {_toml(value)}\n", "utf-8")
        refusal = _refusal(directory, {})
    assert re.match(r"\S*devloop\.toml:\d+(:\d+)?: |$", refusal)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@given(st.sampled_from([key.variable for key in KEYS.values()]), st.text(max_size=12))
def test_any_text_of_any_variable_is_read_or_refused(variable: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        refusal = _refusal(directory, {variable: text})
    assert refusal == "" or refusal.startswith(f"environment: {variable}")


def _refusal(directory: str, environ: dict[str, str]) -> str:
    """What the error says; empty when the configuration was read."""
    try:
        load_config(directory, environ=environ)
    except ConfigError as error:
        return str(error)
    return ""
