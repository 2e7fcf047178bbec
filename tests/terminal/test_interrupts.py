"""What signals do to a process, by the smallest program that listens."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The first signal is noted, as in training; then comes another.
TWICE = """
import os, signal
from mdl_toolkit.terminal.interrupts import Listener
with Listener(launched=False) as listener:
    listener.answer = lambda number: None
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
"""

#: A library catches what the signal raised, as if it were an error of its own.
CAUGHT = """
import os, signal, sys
from mdl_toolkit.terminal.interrupts import Interrupted, Listener
with Listener() as listener:
    try:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except Exception:
            sys.exit("caught")
    except KeyboardInterrupt as interrupt:
        assert isinstance(interrupt, Interrupted) and str(interrupt) == "stopped by SIGHUP"
        sys.exit(128 + interrupt.number)
"""


def test_a_second_signal_ends_the_first_process_of_a_container_too():
    """The system spares such a process what it has no handler for."""
    assert subprocess.run([sys.executable, "-c", TWICE]).returncode == -2
    container = ["unshare", "--pid", "--fork"]
    if subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a container")
    assert subprocess.run([*container, sys.executable, "-c", TWICE]).returncode == 130


def test_what_goes_on_after_errors_does_not_go_on_after_a_signal():
    assert subprocess.run([sys.executable, "-c", CAUGHT]).returncode == 129


def test_threads_can_not_listen_and_are_no_error():
    program = (
        "import threading; from mdl_toolkit.training.signals import StopSignals\n"
        "def work():\n"
        "    with StopSignals() as signals:\n"
        "        print(sum(signals.flags()))\n"
        "threading.Thread(target=work).start()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("0.0\n", "")
