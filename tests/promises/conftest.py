"""Promises that are kept on a box hold over SSH too: the same fixtures as in `tests/e2e`."""

from __future__ import annotations

from tests.e2e.conftest import ssh_shared

__all__ = ["ssh_shared"]
