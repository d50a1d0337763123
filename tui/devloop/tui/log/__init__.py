"""The log pane: from the bytes of runs to rows on the screen. Knows no session."""
