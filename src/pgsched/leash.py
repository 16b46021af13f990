"""
Run a module in a process that ends when the one that started it does, however that ended.

`python -m pgsched.leash FD MODULE [ARGUMENT …]`: FD is the end of a pipe
whose other end the parent alone has.  The kernel closes that when the parent
is gone, killed or not, and reading from it then comes back.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

# From being asked to end to being made to.
GRACE = 10.0


def hold(descriptor: int) -> None:
    """Have this process end once the other end of *descriptor* is closed."""
    threading.Thread(target=_watch, args=[descriptor], daemon=True).start()


def _watch(descriptor: int) -> None:
    # A signal to the process is for its main thread, which may wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Hold on to the parent, and become the module."""
    _, descriptor, module, *arguments = sys.argv
    hold(int(descriptor))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
