"""The processes of the demo."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class Processes:
    """Python children with a log each; none outlives `running()`."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    @contextlib.contextmanager
    def running(cls, logs: Path, environment: dict[str, str]) -> Iterator[Processes]:
        processes = cls(logs, environment)
        try:
            yield processes
        finally:
            processes.stop()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run `python -m` with *arguments*."""
        with (self._logs / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        self._children[name] = child
        return child

    def died(self) -> str | None:
        """The name of a child that ended by itself, if one did."""
        for name, child in self._children.items():
            if child.poll() not in (None, -9):
                return name
        return None

    def stop(self) -> None:
        """Ask all of them to end, then make sure."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
