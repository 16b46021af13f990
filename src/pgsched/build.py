"""Which pgsched this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The version of this installation."""
    try:
        return metadata.version("pgsched")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "checkout"
