"""The widgets beside the log: each draws lines that pure functions make of the view.

Own scrolling and the choice of a run. Decide nothing of what is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from .details import run_line
from .themes import content

if TYPE_CHECKING:
    from .spans import Line
    from .state import RunRow

__all__ = ["Lines", "LinesPane", "Resized", "RunsPane"]


class Resized(Message):
    """A pane has another size: what is fitted into it is to be drawn again."""


class Lines(Static):
    """Lines of spans, drawn again only when they are others."""

    # A line is fitted to a width that is about to change: folded, it would be two for good.
    DEFAULT_CSS = "Lines { height: auto; width: 1fr; text-wrap: nowrap; text-overflow: clip; }"

    def __init__(self, name: str | None = None) -> None:
        super().__init__("", id=name)
        self._shown: list[Line] = []

    @property
    def lines(self) -> list[Line]:
        """What is shown."""
        return self._shown

    def show(self, lines: list[Line]) -> None:
        if lines != self._shown:
            is_as_high = len(lines) == self.size.height
            self._shown = [list(line) for line in lines]
            self.update(content(lines), layout=not is_as_high)


class LinesPane(VerticalScroll, can_focus=True):
    """A titled pane of lines."""

    DEFAULT_CSS = """
    LinesPane {
        border-top: solid $foreground 40%;
        border-title-color: $foreground;
        scrollbar-size-vertical: 1;
        &:focus { border-top: solid $accent; }
    }
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._lines = Lines()
        self._title = ""

    def compose(self):  # type: ignore[no-untyped-def] # Textual's own type is in its private part
        yield self._lines

    @property
    def lines(self) -> list[Line]:
        return self._lines.lines

    def on_resize(self) -> None:
        self.post_message(Resized())

    def show(self, title: str, lines: list[Line]) -> None:
        if title != self._title:
            self._title = title
            self.border_title = Content(title)
        self._lines.show(lines)


class RunsPane(OptionList):
    """The runs, newest first. Choosing one shows its log."""

    DEFAULT_CSS = """
    RunsPane, RunsPane:focus {
        border: none;
        border-top: solid $foreground 40%;
        border-title-color: $foreground;
        padding: 0;
        background: $background;
        scrollbar-size-vertical: 1;
        background-tint: $background 0%;
    }
    RunsPane:focus { border-top: solid $accent; }
    RunsPane > .option-list--option { padding: 0; }
    RunsPane > .option-list--option-highlighted { background: $foreground 12%; color: $foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "show its log", show=False),
    ]

    class Chosen(Message):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, name: str) -> None:
        super().__init__(id=name, markup=False)
        self._title = ""
        self._shown: dict[int, Line] = {}

    @property
    def chosen(self) -> int | None:
        """The run under the cursor."""
        option = self.highlighted_option
        return int(option.id) if option is not None and option.id is not None else None

    def on_resize(self) -> None:
        self.post_message(Resized())

    def show(self, title: str, rows: list[RunRow], now_s: float) -> None:
        """`rows`, newest first."""
        if title != self._title:
            self._title = title
            self.border_title = Content(title)
        width = max(self.scrollable_content_region.width, 20)
        lines = {row.number: run_line(row, width, now_s) for row in rows}
        if list(lines) != list(self._shown):
            self._replace_all(lines)
        else:
            for at, (number, line) in enumerate(lines.items()):
                if line != self._shown[number]:
                    self.replace_option_prompt_at_index(at, content([line]))
        self._shown = lines

    def _replace_all(self, lines: dict[int, Line]) -> None:
        chosen = self.chosen
        self.clear_options()
        self.add_options([Option(content([line]), id=str(n)) for n, line in lines.items()])
        if chosen in lines:
            self.highlighted = self.get_option_index(str(chosen))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.post_message(self.Chosen(int(event.option.id)))
