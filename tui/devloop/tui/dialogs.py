"""What is asked and told in front of the rest: the help, leaving, the command to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from .keys import GROUPS, KEYS, key_words
from .spans import Line, Span
from .themes import content
from .words import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from textual.app import ComposeResult

    from .ground import Found

__all__ = ["AskCommand", "AskLeave", "Help", "LeaveChoice"]

LeaveChoice: TypeAlias = Literal["stop", "keep"]

_BOX = """
    align: center middle;
    background: $background 60%;
"""
_FRAME = """
    width: auto;
    max-width: 100%;
    height: auto;
    max-height: 100%;
    padding: 0 1;
    border: round $primary;
    background: $panel;
"""
KEY_COLUMNS = 16
HELP_COLUMNS = 72


class Help(ModalScreen[None]):
    """The keys in force."""

    DEFAULT_CSS = f"""
    Help {{ {_BOX} }}
    Help > VerticalScroll {{ {_FRAME} width: {HELP_COLUMNS}; }}
    Help > .wide {{ width: {2 * HELP_COLUMNS}; }}
    Help Horizontal {{ height: auto; }}
    Help Static {{ width: 1fr; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss(None)", "close"),
    ]

    def __init__(self, remapped: Mapping[str, str]) -> None:
        super().__init__()
        self._remapped = remapped

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "keys"
            scroll.border_subtitle = "Esc closes"
            wide = self.app.size.width >= 2 * HELP_COLUMNS
            scroll.set_class(wide, "wide")
            left = _group_lines(GROUPS[:2], self._remapped)
            right = [*_group_lines(GROUPS[2:], self._remapped), [], *_more_lines()]
            if wide:
                yield Horizontal(Static(content(left)), Static(content(right)))
            else:
                yield Static(content([*left, [], *right]))


def _group_lines(groups: Sequence[str], remapped: Mapping[str, str]) -> list[Line]:
    lines: list[Line] = []
    for group in groups:
        lines += [[]] * bool(lines) + [[Span(group, "title")]]
        for key in KEYS:
            if key.group == group:
                signs = key_words(key, remapped)
                lines.append([Span(f"  {signs:<{KEY_COLUMNS}}", "strong"), Span(key.words)])
    return lines


def _more_lines() -> list[Line]:
    return [
        [Span("more in the log", "title")],
        *([Span(f"  {s:<{KEY_COLUMNS}}", "strong"), Span(words)] for s, words in _LOG_KEYS),
    ]


_LOG_KEYS = (
    ("↑ ↓ PgUp PgDn", "line and page; scrolled up, it stays still"),
    ("Home", "the oldest line"),
    ("← →", "sideways, where lines are not wrapped"),
    ("Shift+↑ ↓, mouse", "select"),
    ("+ -", "context around what a filter keeps"),
)


class AskLeave(ModalScreen[LeaveChoice | None]):
    """What becomes of the live run."""

    DEFAULT_CSS = f"""
    AskLeave {{ {_BOX} }}
    AskLeave > Vertical {{ {_FRAME} }}
    AskLeave Static {{ width: auto; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s,q,enter", "dismiss('stop')", "stop it"),
        Binding("k,D", "dismiss('keep')", "let it go on"),
        Binding("escape,n", "dismiss(None)", "stay"),
    ]

    def __init__(self, run: int) -> None:
        super().__init__()
        self._run = run

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(
                content(
                    [
                        [Span(f"Run {self._run} is live.", "strong")],
                        [Span("s", "strong"), Span("  stop it and leave   (q, Enter)")],
                        [Span("k", "strong"), Span("  let it go on and leave   (D)")],
                        [Span("Esc", "strong"), Span("  stay")],
                    ]
                )
            )


class AskCommand(ModalScreen[bool]):
    """What shall run? Ends with True once `set_command` has taken an answer."""

    DEFAULT_CSS = f"""
    AskCommand {{ {_BOX} }}
    AskCommand > Vertical {{ {_FRAME} width: 70; }}
    AskCommand Input, AskCommand Input:focus {{ border: round $accent; background: $panel; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(False)", "leave")]

    def __init__(self, root: str, found: Found, set_command: Callable[[str], str]) -> None:
        """`set_command` returns what is wrong with an answer, or an empty string."""
        super().__init__()
        self._root = root
        self._found = found
        self._set_command = set_command

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(content(list(self._found_lines())))
            yield Input(
                self._found.command,
                placeholder="a command, with its arguments",
                select_on_focus=False,
            )
            yield Static(
                content([[Span("Enter keeps it in devloop.toml   Esc leaves", "dim")]]), id="said"
            )

    def _found_lines(self) -> Iterator[Line]:
        """What there is, before what is asked: short lines, of what was not typed by us."""
        yield [Span(f"Found in {plain(self._root)}:", "dim")]
        command = self._found.command
        what = f"  `{plain(command)}` seems to start it" if command else "  nothing that starts it"
        for words in (what, *(f"  {words}" for words in self._found.words)):
            yield [Span(plain(words), "dim")]
        yield []
        yield [Span("What shall run on each save?", "strong")]

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        wrong = self._set_command(event.value)
        if wrong:
            self.query_one("#said", Static).update(content([[Span(f"✗ {wrong}", "bad")]]))
        else:
            self.dismiss(True)
