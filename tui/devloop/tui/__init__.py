"""The screen of `devloop up`."""
