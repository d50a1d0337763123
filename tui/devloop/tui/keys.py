"""The keys: one table, of which bindings, footer, help and palette are made, and how to remap them.

Owns names, places and words. Knows no widget; `app.py` has an action for each.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["GROUPS", "KEYS", "BadKeys", "Key", "footer", "key_words", "keymap"]


class BadKeys(DevloopError):
    """A remapping names no command, or one key for two of them."""


class Key(NamedTuple):
    """`name` is what a configuration remaps. `rank`: with no room in the footer the highest goes
    first; 0 is in the help only."""

    name: str
    keys: str  # as Textual has them, separated by commas
    action: str
    words: str
    group: str
    short: str = ""
    rank: int = 0
    # Before whatever has the focus: what is typed right after it is meant for what it opens.
    is_priority: bool = False


GROUPS = ("run", "log", "find", "screen")

KEYS: tuple[Key, ...] = (
    Key("rerun", "r,enter", "rerun", "run again, restarting what runs", "run", "rerun", 1),
    Key("restart_cold", "R", "restart_cold", "run again with nothing warm: new container", "run"),
    Key("stop", "x", "stop", "stop the run", "run", "stop", 2),
    Key("kill", "X", "kill", "kill the run", "run"),
    Key("pause", "p", "pause", "hold saves, or run on save again", "run", "pause", 3),
    Key(
        "find",
        "slash",
        "log('ask_find')",
        "find; ! finds what does not match",
        *("find", "find", 3, True),
    ),
    Key("find_next", "n", "log('find_next')", "next match", "find"),
    Key("find_previous", "N", "log('find_previous')", "previous match", "find"),
    Key(
        *("filter", "ampersand", "log('ask_filter')", "show matching lines only; ! inverts"),
        *("find", "", 0, True),
    ),
    Key(
        "follow",
        "f",
        "log('toggle_follow')",
        "follow the end of the log, or hold still",
        "log",
        "tail",
        4,
    ),
    Key("resume", "end,G", "log('follow')", "to the end of the log, and follow", "log"),
    Key("next_error", "e", "log('next_error')", "next error", "find", "err", 4),
    Key("previous_error", "E", "log('previous_error')", "previous error", "find"),
    Key("previous_run", "left_square_bracket", "run_step(-1)", "previous run", "run"),
    Key("next_run", "right_square_bracket", "run_step(1)", "next run", "run", "run", 5),
    Key("line_down", "j", "move(1)", "a line down, or the next run in the list", "log"),
    Key("line_up", "k", "move(-1)", "a line up, or the run before in the list", "log"),
    Key("page_down", "space", "log('page(1)')", "a page down", "log"),
    Key("oldest", "g", "log('top')", "the oldest line", "log"),
    Key("wrap", "w", "log('toggle_wrap')", "wrap long lines", "log"),
    Key("time", "t", "log('toggle_time')", "timestamps", "log"),
    Key("mark", "m", "log('toggle_mark')", "mark this line", "log"),
    Key("clear", "c", "log('clear_view')", "clear the view; nothing is lost", "log"),
    Key("copy", "y", "log('copy')", "copy the selection, or this line", "log"),
    Key("open", "o", "open", "the line in $EDITOR, or the log in $PAGER", "log"),
    Key("shell", "s", "shell", "a shell where runs run", "run", "shell", 4),
    Key("debug", "d", "debug", "run again under pdb; saves wait meanwhile", "run"),
    Key("diff", "v", "diff('before')", "the code: what changed since the run before", "run"),
    Key("diff_newest", "V", "diff('newest')", "the code: from this run to the newest", "run"),
    Key("log_pane", "1", "pane('log')", "the log", "screen"),
    Key("gpu_pane", "2", "pane('gpu')", "GPUs and host", "screen"),
    Key("sync_pane", "3", "pane('sync')", "what sync does", "screen"),
    Key("runs_pane", "4", "pane('runs')", "the history of runs", "screen"),
    Key("next_pane", "tab", "app.focus_next", "next pane", "screen"),
    Key("previous_pane", "shift+tab", "app.focus_previous", "previous pane", "screen"),
    Key("zoom", "z", "zoom", "this pane alone, or all of them", "screen"),
    Key("dismiss", "escape", "close_card", "drop selection, search, zoom or card", "screen"),
    Key("palette", "colon,ctrl+p", "command_palette", "all commands", "screen", "cmd", 2),
    Key("help", "question_mark", "help", "this help", "screen", "help", 1),
    Key("quit", "q", "leave", "leave; asks what becomes of a live run", "screen", "quit", 1, True),
    Key("detach", "D", "detach", "leave, and let the run go on", "screen"),
    Key(
        *("interrupt", "ctrl+c", "interrupt", "copy a selection; else interrupt the run"),
        *("run", "", 0, True),
    ),
)

# Characters that Textual calls by another name than Unicode does.
_NAMES = {
    "/": "slash",
    "\\": "backslash",
    "@": "at",
    "-": "minus",
    "+": "plus",
    "_": "underscore",
}
NEEDED = ("quit", "interrupt")
_MODIFIERS = {"ctrl", "shift", "alt", "meta", "super", "hyper"}
_KEY_NAMES = {
    *("escape", "enter", "tab", "space", "backspace", "insert", "delete"),
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown"),
    *(f"f{number}" for number in range(1, 25)),
}
_SIGNS = {
    **{name: sign for sign, name in _NAMES.items()},
    "ampersand": "&",
    "question_mark": "?",
    "colon": ":",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "enter": "Enter",
    "escape": "Esc",
    "tab": "Tab",
    "shift+tab": "Shift+Tab",
    "end": "End",
    "space": "Space",
}


def keymap(wanted: Mapping[str, str]) -> dict[str, str]:
    """What a configuration asks for ("rerun": "f5 R"), as Textual has it: "f5,R".

    A key that is taken is no longer that of another command; without a way to leave, and to
    interrupt, there is no screen. Raises BadKeys.
    """
    names = [key.name for key in KEYS]
    if unknown := [name for name in wanted if name not in names]:
        raise BadKeys(f"knows no command {unknown[0]}", hint="the commands are " + ", ".join(names))
    remapped = {name: [_key_name(key) for key in keys.split()] for name, keys in wanted.items()}
    taken = [key for keys in remapped.values() for key in keys]
    if twice := [key for key in taken if taken.count(key) > 1]:
        raise BadKeys(f"has {_SIGNS.get(twice[0], twice[0])} for two commands")
    if strange := [key for key in taken if not _is_key(key)]:
        raise BadKeys(
            f"knows no key {strange[0]}", hint="keys are such as r, R, /, f5, ctrl+f, pageup, space"
        )
    for key in KEYS:
        left = [name for name in key.keys.split(",") if name not in taken]
        if key.name not in remapped and left != key.keys.split(","):
            remapped[key.name] = left
    for name in NEEDED:
        if name in remapped and not remapped[name]:
            raise BadKeys(f"leaves no key for {name}", hint=f'such as {name} = "f10"')
    return {name: ",".join(keys) for name, keys in remapped.items()}


def _is_key(name: str) -> bool:
    """Whether a terminal may send it: a name that Textual has, of a key or of a character."""
    *modifiers, last = name.split("+")
    if not _MODIFIERS.issuperset(modifiers):
        return False
    if len(last) == 1 or last in _KEY_NAMES or last in _NAMES.values():
        return True
    try:
        unicodedata.lookup(last.replace("_", " "))
    except KeyError:
        return False
    return True


def _key_name(written: str) -> str:
    """As Textual calls it: "/" is "slash"; "f5" and "ctrl+r" are what they are."""
    *modifiers, last = written.rsplit("+", 1) if len(written) > 1 else [written]
    if not last:  # "ctrl++"
        modifiers, last = [modifiers[0].rstrip("+")], "+"
    if len(last) > 1 or (modifiers and last.isalnum()):
        last = last.lower()
    elif not last.isalnum():
        unicode_name = unicodedata.name(last, last).lower()
        last = _NAMES.get(last) or unicode_name.replace("-", "_").replace(" ", "_")
    return "+".join([*(modifier.lower() for modifier in modifiers), last])


def key_words(key: Key, remapped: Mapping[str, str]) -> str:
    """The keys in force, as one reads them: "r Enter". `remapped`: of `keymap`."""
    keys = remapped.get(key.name, key.keys)
    return " ".join(_SIGNS.get(name.strip(), name.strip()) for name in keys.split(","))


def footer(width: int, remapped: Mapping[str, str], columns: int = 0) -> list[tuple[str, str]]:
    """(key, word) in the order of the table, as many as fit between two margins."""
    shown = [key for key in KEYS if key.rank]
    while True:
        pairs = list(_pairs(shown, remapped))
        needed = sum(len(sign) + len(word) + 2 for sign, word in pairs)
        if needed + columns <= width or not shown:
            return pairs
        shown.remove(max(reversed(shown), key=lambda key: key.rank))


def _pairs(keys: list[Key], remapped: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        signs = key_words(key, remapped).split(" ")[0]
        if not signs:  # another command has all its keys
            continue
        yield ("[ ]" if key.name == "next_run" and signs == "]" else signs), key.short
