"""What differs between the code of two runs, in front of the rest. Fetches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from .log.pane import LogPane
from .words import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

__all__ = ["DiffScreen", "coloured"]

_COLOURS = (("---", "1"), ("+++", "1"), ("@@", "36"), ("+", "32"), ("-", "31"))


class _DiffPane(LogPane):
    """The log's keys, from the top on."""

    DEFAULT_CSS = "_DiffPane { width: 1fr; height: 1fr; }"

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @property
    def title_text(self) -> str:
        return f"{self._title} · {self.line_count:,} lines · / finds · q closes"

    def action_dismiss(self) -> None:
        if self.is_plain:
            self.screen.dismiss(None)
        else:
            super().action_dismiss()

    def on_mount(self) -> None:
        self.call_after_refresh(self.action_top)


class DiffScreen(ModalScreen[None]):
    """Lines of a unified diff."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,v,V", "dismiss(None)", "close"),
    ]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        pane = _DiffPane(self._title)
        pane.append(0, "stdout", coloured(self._lines).encode(errors="replace"), 0)
        yield pane


def coloured(lines: Sequence[str]) -> str:
    """With colours, and without any control code that a file holds."""
    return "".join(f"{_colour(line)}{plain(line.expandtabs(4))}\x1b[0m\n" for line in lines)


def _colour(line: str) -> str:
    code = next((code for start, code in _COLOURS if line.startswith(start)), "0")
    return f"\x1b[{code}m"
