"""Single keys of a terminal, which is left as it was found."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# In the list that tcgetattr() returns.
CONTROL_CHARACTERS = 6


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """
    Call *on_key* with each key, while the event loop runs; Ctrl-C stays what it is.

    Ctrl-Z is switched off: it would leave the terminal in the alternate screen.
    Where stdin is no terminal there are no keys.
    """
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(terminal, 64).decode(errors="replace")
        if not typed:  # the terminal is gone
            loop.remove_reader(terminal)
        for key in typed:
            on_key(key)

    try:
        tty.setcbreak(terminal)
        attributes = termios.tcgetattr(terminal)
        attributes[CONTROL_CHARACTERS][termios.VSUSP] = b"\0"
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
        loop.add_reader(terminal, read)
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
