"""Files and folders that appear whole or not at all; locks and digests of files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest

from mdl_toolkit.files import (
    atomic_file,
    atomic_folder,
    ending_with,
    finish_replacement,
    remove_partials,
    sha256_of,
    try_lock,
    write_json,
)


def test_a_file_takes_its_name_only_when_it_is_finished(tmp_path: Path):
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as stream:
        stream.write("grüße")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "grüße"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as stream:  # noqa: PT012 -- what is written and the failure belong together
        stream.write("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_closing_never_hides_the_error_that_came_first(tmp_path: Path):
    """A full disk fails at the write and, with what is still in the buffer, again at the close."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    stream = open("/dev/full", "w")  # noqa: SIM115 -- the block under test closes it
    with pytest.raises(ValueError, match="a row is wrong"), ending_with(stream.close):  # noqa: PT012 -- both in one block
        stream.write("in the buffer")
        raise ValueError("a row is wrong")
    assert stream.closed
    stream = open("/dev/full", "w")  # noqa: SIM115 -- the block under test closes it
    with pytest.raises(OSError, match="No space left"), ending_with(stream.close):
        stream.write("nothing has failed before")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a.txt") as partial:  # noqa: PT012 -- both in one block
        os.dup2(os.open("/dev/full", os.O_WRONLY), partial.fileno())
        partial.write("in the buffer")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_full_disk_at_the_last_moment_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "a.json"
    write_json(target, {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(target, {"n": 2})
    assert json.loads(target.read_text()) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_takes_its_name_only_when_it_is_finished(tmp_path: Path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    with atomic_folder(target) as folder:
        (folder / "b").write_text("2")
        assert (target / "sub" / "a").exists()  # the old one is whole until the new one is
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:  # noqa: PT012 -- what is written and the failure belong together
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_leftovers_of_one_target_are_removed_and_nothing_else(tmp_path: Path):
    gone = [".partial-out-123", ".partial-old-out-7"]
    kept = [".partial-out-two-123", ".partial-other-5", "out", "out-5", ".partial-out-x"]
    for name in [*gone, *kept]:
        (tmp_path / name).mkdir()
    remove_partials(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_one_open_file_at_a_time_is_locked(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_text("of somebody else")
    with open(path) as first, open(path) as second:
        assert try_lock(first.fileno()) is True
        assert try_lock(second.fileno()) is False
        first.close()
        assert try_lock(second.fileno()) is True
    assert path.read_text() == "of somebody else"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.ESTALE])
def test_a_file_that_can_t_be_locked_is_told_from_a_locked_file(tmp_path: Path, monkeypatch, number: int):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open(tmp_path / "lock", "w") as stream, pytest.raises(OSError) as caught:  # noqa: PT011 -- the number is compared
        try_lock(stream.fileno())
    assert caught.value.errno == number


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    content = bytes(range(256)) * 10_000  # more than is read at a time
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def _fill(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text(text)


@pytest.mark.parametrize("new", [True, False])
def test_a_replacement_that_was_cut_between_its_renames_is_finished(tmp_path: Path, new: bool):
    target = tmp_path / "best"
    _fill(tmp_path / ".partial-old-best-77", "old")
    _fill(tmp_path / ".partial-best-78", "half written by another process")
    if new:
        _fill(tmp_path / ".partial-best-77", "new")
    finish_replacement(target)
    assert (target / "a.txt").read_text() == ("new" if new else "old")
    finish_replacement(target)  # nothing is taken from a folder that is there
    assert (tmp_path / ".partial-best-78").is_dir()


def test_a_replacement_that_fails_between_its_renames_is_taken_back(tmp_path: Path, monkeypatch):
    target = tmp_path / "best"
    _fill(target, "old")
    rename, calls = os.rename, 0

    def fails(*args: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(*args)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(target) as folder:
        (folder / "a.txt").write_text("new")
    assert (target / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["best"]
