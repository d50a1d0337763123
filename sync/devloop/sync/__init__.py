"""The laptop half: what is on the laptop, what the box should do about it, and how it is told."""
