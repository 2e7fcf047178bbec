"""Ending this process at once, without Python's normal shutdown.

The interpreter joins all threads and frees all objects first. That goes wrong in two cases:

- A command that a signal has stopped may have threads that wait for a slow server. Python would wait too.
- A thread of a process group's backend may still hold the last collective's tensor. Where it lets go of it
  while objects are being freed, the process aborts (exit code -6), though all of its work is done.
"""

from __future__ import annotations

import os
from typing import NoReturn

from mdl_toolkit.compat.interpreter import run_exit_functions
from mdl_toolkit.terminal.console import flush
from mdl_toolkit.terminal.live_line import LIVE


def end_process(code: int, *, exit_functions: bool) -> NoReturn:
    """End this process with an exit code. What was printed is kept; nothing is unwound.

    Args:
        code: The exit code.
        exit_functions: Whether to call what was registered with ``atexit``, as at an ordinary end. False in a
            thread that ends the process because its main thread hangs.
    """
    if exit_functions:
        run_exit_functions()
    LIVE.clear()
    flush()
    os._exit(code)
