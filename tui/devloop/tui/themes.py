"""The themes: the usual one, one for eyes that tell few colours apart, and one of 16 colours.

Styles are the words of `spans.py`; every theme has a colour for each, and no state is colour alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from textual.content import Content
from textual.theme import Theme

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .spans import Line, Style

__all__ = ["THEMES", "content", "names_of", "theme_for"]

DEFAULT, COLOUR_BLIND, SIXTEEN = "devloop", "devloop-colour-blind", "devloop-16"

THEMES = (
    Theme(
        name=DEFAULT,
        primary="#7aa2f7",
        secondary="#7dcfff",
        accent="#7dcfff",
        success="#9ece6a",
        warning="#e0af68",
        error="#f7768e",
        foreground="#c8d0e0",
        background="#12141a",
        surface="#12141a",
        panel="#1c2029",
    ),
    # Okabe and Ito, "Color Universal Design": blue, orange and vermilion stay apart for all eyes.
    Theme(
        name=COLOUR_BLIND,
        primary="#56b4e9",
        secondary="#56b4e9",
        accent="#56b4e9",
        success="#009e73",
        warning="#e69f00",
        error="#d55e00",
        foreground="#e6e6e6",
        background="#111111",
        surface="#111111",
        panel="#1e1e1e",
    ),
    Theme(
        name=SIXTEEN,
        primary="ansi_bright_blue",
        secondary="ansi_cyan",
        accent="ansi_cyan",
        success="ansi_green",
        warning="ansi_yellow",
        error="ansi_bright_red",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        ansi=True,
        variables={
            "ansi-background": "ansi_default",
            "ansi-foreground": "ansi_default",
            "border-blurred": "ansi_bright_black",
            "block-cursor-foreground": "ansi_black",
            "block-cursor-background": "ansi_cyan",
            "input-cursor-foreground": "ansi_black",
            "input-cursor-background": "ansi_cyan",
            "input-cursor-text-style": "none",
            "input-selection-foreground": "ansi_black",
            "input-selection-background": "ansi_cyan",
            "screen-selection-foreground": "ansi_black",
            "screen-selection-background": "ansi_cyan",
        },
    ),
)

_STYLES: dict[Style, str] = {
    "": "",
    "dim": "dim",
    "strong": "bold",
    "good": "$success bold",
    "bad": "$error bold",
    "warn": "$warning bold",
    "accent": "$accent",
    "title": "$primary bold",
}


def names_of(themes: Iterable[str]) -> list[str]:
    """As a configuration has them: ours by their short names, then Textual's."""
    own = [theme.name for theme in THEMES]
    return ["default", "colour-blind", "16", *sorted(name for name in themes if name not in own)]


def theme_for(wanted: str) -> str:
    """`wanted`, by its short name too; empty: what the terminal can show."""
    names = {theme.name for theme in THEMES}
    if wanted in names or f"devloop-{wanted}" in names:
        return wanted if wanted in names else f"devloop-{wanted}"
    if wanted and wanted != "default":
        return wanted  # one of Textual's own
    return DEFAULT if wanted or _has_many_colours() else SIXTEEN


def _has_many_colours() -> bool:
    term = os.environ.get("TERM", "")
    return "COLORTERM" in os.environ or any(
        word in term for word in ("256", "direct", "kitty", "alacritty", "ghostty", "truecolor")
    )


def content(lines: Iterable[Line]) -> Content:
    """What a widget shows."""
    parts: list[str | tuple[str, str]] = []
    for line in lines:
        if parts:
            parts.append("\n")
        parts += [(span.text, _STYLES[span.style]) for span in line]
    return Content.assemble(*parts)
