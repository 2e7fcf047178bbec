"""One process at a time: the lock goes with its holder, also where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease, Timeout

from mdl_toolkit.data import lock as lock_module
from mdl_toolkit.data.lock import exclusive


def _hold(path: str, seconds: float, held) -> None:
    with exclusive(Path(path), lambda status: None):
        held.set()
        time.sleep(seconds)


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_one_at_a_time(tmp_path: Path):
    _check_one_at_a_time(tmp_path)


def test_one_at_a_time_where_the_filesystem_has_no_locks(tmp_path: Path, no_kernel_locks: None):
    _check_one_at_a_time(tmp_path)


def _check_one_at_a_time(tmp_path: Path) -> None:
    inside, most, told = [0], [0], []

    def work() -> None:
        for _ in range(3):
            with exclusive(tmp_path / "lock", told.append) as holder:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                holder.note(done=1)
                time.sleep(0.02)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most[0] == 1 and inside[0] == 0
    assert not [name for name in os.listdir(tmp_path) if "held" in name]


def test_the_lock_goes_with_its_holder(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path / "lock"), 600, held))
    process.start()
    assert held.wait(60)
    said: list[dict] = []
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with exclusive(tmp_path / "lock", said.append):
        pass
    process.join()
    assert said and said[0]["pid"] == process.pid


# Takes the lock that is for file systems without locks, and ends without giving it back.
ABANDON = """
import os, socket, sys
from filelock import SoftFileLease
if sys.argv[3] == "elsewhere":
    socket.gethostname = lambda: "elsewhere"
seconds = float(sys.argv[2])
lease = SoftFileLease(sys.argv[1], lease_duration=seconds, heartbeat_interval=seconds / 6)
lease.acquire()
os._exit(0)
"""


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_without_kernel_locks_an_abandoned_lock_is_taken_over(
    tmp_path: Path, no_kernel_locks: None, monkeypatch: pytest.MonkeyPatch, where: str
):
    """On this machine its holder is seen to be gone; of another machine, nobody touches the file any more."""
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 2.0)
    held = tmp_path / "lock.held"
    subprocess.run([sys.executable, "-c", ABANDON, str(held), "2.0", where], check=True)
    assert held.exists()
    told: list[dict] = []
    start = time.monotonic()
    with exclusive(tmp_path / "lock", told.append):
        if where == "elsewhere":
            assert told and time.monotonic() - start >= 1.0
        # One who holds it for longer than that keeps it, because it keeps touching the file.
        with pytest.raises(Timeout):
            SoftFileLease(held, lease_duration=2.0, heartbeat_interval=2.0 / 6).acquire(timeout=3.0)
    assert os.listdir(tmp_path) == []


def test_the_holders_word_is_whole(tmp_path: Path):
    with exclusive(tmp_path / "lock", lambda status: None) as holder:
        holder._last = -10.0
        holder.note(done=1_000_000, total=2_000_000)
        holder._last = -10.0
        holder.note(done=1)
        assert json.loads((tmp_path / "lock").read_text())["done"] == 1
