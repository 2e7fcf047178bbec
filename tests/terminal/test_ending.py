"""A process that ends itself at once: its code, what it has printed, and what it doesn't wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, threading
from mdl_toolkit.terminal.ending import end_process

atexit.register(lambda: print("cleared up"))
threading.Thread(target=threading.Event().wait).start()  # the interpreter would wait for it for ever
print("working")
try:
    end_process(143, exit_functions={exit_functions})
finally:
    print("unwound")
"""


@pytest.mark.parametrize(
    ("exit_functions", "printed"), [(True, "working\ncleared up\n"), (False, "working\n")]
)
def test_a_process_ends_at_once_with_what_it_has_printed(exit_functions: bool, printed: str) -> None:
    script = SCRIPT.format(exit_functions=exit_functions)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (143, printed, "")


def test_where_exit_functions_cannot_be_called_the_process_ends_without_them() -> None:
    script = SCRIPT.format(exit_functions=True).replace(
        "atexit.register", "del atexit._run_exitfuncs; atexit.register"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (143, "working\n", "")
