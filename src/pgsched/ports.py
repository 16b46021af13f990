"""Ports of this machine, for what runs here for a while."""

from __future__ import annotations

import socket


def free_port() -> int:
    """
    A port of 127.0.0.1 that was free just now.

    Raises:
        OSError: No port is free.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
