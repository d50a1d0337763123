"""The line that a pattern is typed into; what it finds is shown while it is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.widgets import Input

if TYPE_CHECKING:
    from .pane import LogPane

__all__ = ["PatternBar"]


class PatternBar(Input):
    """For a pane's find (`/`) or filter (`&`). Enter keeps the pattern, escape the one before."""

    DEFAULT_CSS = """
    PatternBar { dock: bottom; height: 1; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel", show=False),
    ]

    def __init__(self, pane: LogPane, kind: Literal["find", "filter"], before: str) -> None:
        hint = "find" if kind == "find" else "show only lines with"
        super().__init__(placeholder=f"{hint}: a regular expression; ! inverts", compact=True)
        self._pane = pane
        self._kind = kind
        self._before = before

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._apply(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close()

    def action_cancel(self) -> None:
        self._apply(self._before)
        self._close()

    def _apply(self, pattern: str) -> None:
        if self._kind == "find":
            self._pane.action_find(pattern)
        else:
            self._pane.action_filter(pattern or None)

    def _close(self) -> None:
        self._pane.focus()
        self.remove()
