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
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl_toolkit.data import lock as lock_module
from mdl_toolkit.data.dataset.check_cache import CheckResult, check_once
from mdl_toolkit.data.lock import exclusive


def _hold(path: str, seconds: float, held) -> None:
    with exclusive(Path(path), lambda status: None):
        held.set()
        time.sleep(seconds)


def _refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse_locks(monkeypatch, errno.ENOLCK)


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


# Takes the lock where the file system has no locks, and ends without giving it back.
ABANDON = """
import errno, fcntl, os, sys
from pathlib import Path
from mdl_toolkit.data.lock import exclusive

def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = refuse
with exclusive(Path(sys.argv[1]), lambda status: None):
    os._exit(0)
"""


class _StillWaitingError(Exception):
    """A test has waited long enough to know that the lock isn't to be had."""


@pytest.fixture
def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failed attempt is told at once to the one who waits."""
    monkeypatch.setattr(lock_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lock_module, "MESSAGE_SECONDS", 0.0)


def _give_up_after(attempts: int, told: list[dict]) -> Callable[[dict], None]:
    def waiting(status: dict) -> None:
        told.append(status)
        if len(told) == attempts:
            raise _StillWaitingError

    return waiting


def test_without_kernel_locks_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, no_kernel_locks: None, ask_often: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 2.0)
    subprocess.run([sys.executable, "-c", ABANDON, str(tmp_path / "lock")], check=True)
    assert (tmp_path / "lock.held").exists()
    with exclusive(tmp_path / "lock", lambda status: None):
        # One who holds it for longer than that keeps it, because it keeps touching the file.
        end = time.monotonic() + 3.0

        def waiting(status: dict) -> None:
            if time.monotonic() > end:
                raise _StillWaitingError

        with pytest.raises(_StillWaitingError), exclusive(tmp_path / "lock", waiting):
            pass
    assert os.listdir(tmp_path) == []


# Empty, as we make them; or with words, whole or not, of a version or a tool that writes some.
MARKERS = [b"", b"47", b'{"pid": 47, "hostna', b"47\nelsewhere\n"]


@pytest.mark.parametrize("content", MARKERS)
def test_without_kernel_locks_a_marker_is_waited_for_until_it_is_stale(
    tmp_path: Path, no_kernel_locks: None, ask_often: None, content: bytes
):
    held = tmp_path / "lock.held"
    held.write_bytes(content)
    told: list[dict] = []
    with pytest.raises(_StillWaitingError), exclusive(tmp_path / "lock", _give_up_after(20, told)):
        pass
    assert held.read_bytes() == content
    assert all(status["marker"] == str(held) for status in told)
    _age(held)
    with exclusive(tmp_path / "lock", _give_up_after(20, [])):
        assert held.exists()
    assert os.listdir(tmp_path) == []


def _age(path: Path) -> None:
    long_ago = time.time() - 10 * lock_module.STALE_SECONDS
    os.utime(path, (long_ago, long_ago))


def _touch_again(held: Path) -> None:
    os.utime(held)


def _make_anew(held: Path) -> None:
    held.unlink()
    held.touch()


def test_a_marker_without_a_thread_to_keep_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the others would wait for a holder that there isn't."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        lock_module._Marker(tmp_path / "held").acquire()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", [_touch_again, _make_anew])
def test_a_marker_that_gets_a_holder_before_it_is_taken_over_is_put_back(
    tmp_path: Path,
    no_kernel_locks: None,
    ask_often: None,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
):
    """Another process took it over and made its own, or its holder was only suspended."""
    held = tmp_path / "lock.held"
    held.touch()
    _age(held)
    rename, changes = os.rename, []

    def change_first(source: Path, target: Path) -> None:
        if not changes:
            changes.append(source)
            change(held)
        rename(source, target)

    monkeypatch.setattr(os, "rename", change_first)
    with pytest.raises(_StillWaitingError), exclusive(tmp_path / "lock", _give_up_after(20, [])):
        pass
    assert changes == [held]
    assert sorted(os.listdir(tmp_path)) == ["lock", "lock.held"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_the_marker_stands_in_where_the_filesystem_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    _refuse_locks(monkeypatch, number)
    with exclusive(tmp_path / "lock", lambda status: None):
        assert (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EPERM])
def test_another_error_of_the_lock_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    """Taken for a file system without locks, it would let two processes hold the lock at once."""
    _refuse_locks(monkeypatch, number)
    with pytest.raises(OSError) as caught, exclusive(tmp_path / "lock", lambda status: None):  # noqa: PT011 -- the number is compared
        pass
    assert caught.value.errno == number
    assert not (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EWOULDBLOCK])
def test_a_lock_of_another_process_is_waited_for(
    tmp_path: Path, ask_often: None, monkeypatch: pytest.MonkeyPatch, number: int
):
    _refuse_locks(monkeypatch, number)
    told: list[dict] = []
    with pytest.raises(_StillWaitingError), exclusive(tmp_path / "lock", _give_up_after(3, told)):
        pass
    assert not any("marker" in status for status in told)
    assert not (tmp_path / "lock.held").exists()


def test_who_waits_for_a_check_is_told_the_file_of_the_marker(
    tmp_path: Path, no_kernel_locks: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 0.5)
    caplog.set_level("INFO", "mdl_toolkit")
    checked = tmp_path / "checked.txt"
    checked.touch()
    check_once([checked], lambda: CheckResult("broken"))
    (kept,) = (tmp_path / "mdl-toolkit").rglob("*.npz")
    kept.unlink()
    held = kept.with_suffix(".lock.held")
    held.touch()
    assert check_once([checked], lambda: CheckResult("broken")).problem == "broken"
    assert f"waiting: {tmp_path} is being checked (by the process that holds {held})" in caplog.messages


def test_the_holders_word_is_whole(tmp_path: Path):
    with exclusive(tmp_path / "lock", lambda status: None) as holder:
        holder._last = -10.0
        holder.note(done=1_000_000, total=2_000_000)
        holder._last = -10.0
        holder.note(done=1)
        assert json.loads((tmp_path / "lock").read_text())["done"] == 1
