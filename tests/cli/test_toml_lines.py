"""Where a TOML document names its keys."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from devloop.cli.toml_lines import key_lines

DOCUMENT = '''\
# [not.a.table] = 1
target = "local" # run.command = "no"

[run] # here
command = ["python",
    "a = b", # c = 3
]
'on_save' = """
fake = 1
"quotes" \\""" """
env = { A = "1", "B C" = '}' }

sync.outputs = [
    { path = "x" },
]
dates = 1979-05-27 07:32:00
[[tool.other]]
a.b . c = 0x1F
[[tool.other]]
a.b.c = inf
'''


def test_each_key_is_found_on_its_line() -> None:
    assert key_lines(DOCUMENT) == {
        ("target",): 2,
        ("run",): 4,
        ("run", "command"): 5,
        ("run", "on_save"): 8,
        ("run", "env"): 11,
        ("run", "env", "A"): 11,
        ("run", "env", "B C"): 11,
        ("run", "sync"): 13,
        ("run", "sync", "outputs"): 13,
        ("run", "sync", "outputs", "path"): 14,
        ("run", "dates"): 16,
        ("tool",): 17,
        ("tool", "other"): 17,
        ("tool", "other", "a"): 18,
        ("tool", "other", "a", "b"): 18,
        ("tool", "other", "a", "b", "c"): 18,
    }


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=5)
TEXTS = st.text(alphabet="ab \n\t'\"\\#=[]{}.,", max_size=12)
VALUES = st.recursive(
    st.integers(-9, 9) | st.booleans() | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
)


def _toml(value: object) -> str:
    """One value, as TOML writes it; strings in the form that is hardest to skip."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_text(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[ # ]\n" + ",\n".join(map(_toml, value)) + "\n]"
    if isinstance(value, str):
        body = value.replace("\\", "\\\\").replace('"""', '""\\"')
        return f'"""\n{body}"""' if not body.endswith('"') else _text(value)
    return json.dumps(value)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    paths = {(*above, name) for name in values}
    for name, value in values.items():
        if isinstance(value, dict):
            paths |= _paths(value, (*above, name))
    return paths


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.dictionaries(KEYS, VALUES, max_size=3))
def test_every_key_that_tomllib_reads_has_a_line_that_names_it(
    top: dict[str, object], table: dict[str, object]
) -> None:
    pairs = [f"{_text(key)} = {_toml(value)}" for key, value in top.items()]
    text = "\n".join([*pairs, '["a table"]', *(f"{_text(k)}={_toml(v)}" for k, v in table.items())])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # a key of the top that is also the table's name
        assert "a table" in top
        return
    lines = key_lines(text)
    assert _paths(values) <= lines.keys()
    for path in _paths(values):
        assert _text(path[-1]) in text.split("\n")[lines[path] - 1]
