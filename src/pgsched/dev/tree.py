"""The processes of `pgsched dev`: none of them outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Self

# What a process that is told to end may take for it.
GRACE = 15.0
# A log line is read in one piece up to here.
LONGEST_LINE = 1024 * 1024


class Child:
    """One process, with the name that its lines are shown under."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, ends_last: bool) -> None:
        self.name = name
        self.ends_last = ends_last
        self._process = process

    @property
    def code(self) -> int | None:
        """Its exit code; negative for a signal, None while it runs."""
        return self._process.returncode

    async def lines(self) -> AsyncIterator[str]:
        """What it prints."""
        assert self._process.stdout is not None  # noqa: S101
        async for line in self._process.stdout:
            yield line.decode(errors="replace").rstrip()

    async def stop(self) -> None:
        """Ask it to end, then make sure."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), GRACE)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


class Tree:
    """
    Processes that end with this one.

    Each holds one end of a pipe; see leash.py.  They are in sessions of their
    own, so that a Ctrl-C at the terminal reaches this process alone.
    """

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._theirs, self._ours = os.pipe()
        self._children: list[Child] = []
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def growing(cls, say: Callable[[str, str], None]) -> AsyncIterator[Self]:
        """A tree, and the end of all that is in it."""
        tree = cls(say)
        try:
            yield tree
        finally:
            await tree._fell()

    async def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        ends_last: bool = False,
    ) -> None:
        """Run `python -m` *module*; one that *ends_last* is stopped after all others."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pgsched.leash", str(self._theirs), module, *arguments),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LONGEST_LINE,
            pass_fds=[self._theirs],
            start_new_session=True,
        )
        child = Child(name, process, ends_last)
        self._children.append(child)
        self._readers.append(asyncio.create_task(self._read(child)))

    async def _read(self, child: Child) -> None:
        async for line in child.lines():
            self._say(child.name, line)

    async def first_to_end(self) -> Child:
        """The first process that ends."""
        while True:
            for child in self._children:
                if child.code is not None:
                    return child
            await asyncio.sleep(0.1)

    async def _fell(self) -> None:
        for is_last in (False, True):
            await asyncio.gather(*(c.stop() for c in self._children if c.ends_last is is_last))
        await asyncio.gather(*self._readers, return_exceptions=True)
        os.close(self._ours)
        os.close(self._theirs)
