"""What signals do to a process, by the smallest program that listens."""

from __future__ import annotations

import signal
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

#: A storm of signals goes on when the work is done.
STORM = """
import os, signal, sys
from mdl_toolkit.terminal.interrupts import STOP_SIGNALS, Listener, end_undisturbed
end_undisturbed()
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGUSR2)
with Listener(launched=False) as listener:
    listener.answer = lambda number: None
    for number in 2 * [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]:
        os.kill(os.getpid(), number)
for number in 5 * STOP_SIGNALS:
    os.kill(os.getpid(), number)
sys.exit(7)
"""

#: A program frees an object while the signal comes, and Python ignores what is raised then.
LOST = """
import os, signal, time
from mdl_toolkit.terminal import interrupts, watchdog
watchdog.ENDING_SECONDS = 0.5
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.01)
with interrupts.Listener() as listener:
    listener.unsaved = "before the first step was finished"
    Freed()
    time.sleep(60)
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


def test_a_storm_of_signals_is_one_request_and_changes_no_exit_code():
    assert subprocess.run([sys.executable, "-c", STORM]).returncode == 7
    assert subprocess.run([sys.executable, "-c", STORM, "early"]).returncode == -signal.SIGUSR2


def test_a_request_that_got_lost_ends_the_process_all_the_same():
    """Within the time that it gets to end by itself, and with the code of what is not saved."""
    ended = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 4, ended.stderr
    said = "stopped, not saved: by SIGUSR2 before the first step was finished"
    assert ended.stderr.splitlines()[-1] == said
