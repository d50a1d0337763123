"""Benchmarks: how fast devloop is beside what people use today, both measured in the same run.

Plain scripts around the installed `devloop` command. They import nothing of devloop: what they
time is what a user starts. `scripts/bench loop` runs them; `docs/benchmarks.md` holds figures.
"""
