"""The interpreter's own end."""

from __future__ import annotations

import atexit
from collections.abc import Callable


def run_exit_functions() -> None:
    """Call what was registered with ``atexit``, as the interpreter does at its end, and only that.

    The public way is to let the interpreter end, which first waits for all threads. Python 3.10 to 3.13 have
    ``atexit._run_exitfuncs``. Fall-back: they are left out; to wait for threads could take for ever.
    """
    run: Callable[[], None] | None = getattr(atexit, "_run_exitfuncs", None)
    if run is not None:
        run()
