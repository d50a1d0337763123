"""Bringing OCI and Docker images in: where they come from, and what becomes of their layers."""
