"""Files that appear whole or not at all (write beside, flush, rename), and files that one process locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

#: Files and folders with this prefix are unfinished work of some process. Readers skip them.
PARTIAL_PREFIX = ".partial-"
#: Files that operating systems leave in folders, and the folder where Python does.
_SYSTEM_FILES, _PYTHON_CACHE = frozenset({".DS_Store", "Thumbs.db"}), "__pycache__"


def storage_cause(error: BaseException) -> str | None:
    """Why a file could not be written, for a person; ``None`` if the error is about something else."""
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


@contextmanager
def ending_with(close: Callable[[], object]) -> Iterator[None]:
    """Call ``close`` after the block. What it raises never takes the place of the block's own error.

    Closing a file writes what is still in its buffer: on a full disk it fails as the write before it did, and
    a ``finally`` or ``with`` would show that error in place of the one with the file's name and the remedy.
    """
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close()
        raise
    close()


def fsync_path(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal; read in pieces, so that memory doesn't grow with it.

    Raises:
        OSError: It can't be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def free_bytes(path: Path) -> int | None:
    """Free disk space in bytes at a path, which need not exist; ``None`` if the file system doesn't tell."""
    for folder in (path, *path.absolute().parents):
        try:
            status = os.statvfs(folder)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize if status.f_blocks else None
    return None


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, unless another process has it locked.

    The lock is the kernel's: it goes when the file is closed or the process ends, however that happens.
    filelock isn't used: its ``lock_descriptor`` takes EACCES for the lock of another process, and callers
    differ in that; its ``FileLock`` empties (up to 4.2) the file, which can be the user's.

    Args:
        descriptor: The open file.

    Returns:
        Whether this process has it now.

    Raises:
        OSError: It can't be locked; for one, the file system may have no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_if_possible(descriptor: int) -> bool:
    """Lock as :func:`try_lock` does; a file system without locks must not keep the work from being done.

    Args:
        descriptor: The open file.

    Returns:
        False if another process has it locked.
    """
    try:
        return try_lock(descriptor)
    except OSError:
        return True


def _partial_name(target: Path) -> Path:
    return target.with_name(f"{PARTIAL_PREFIX}{target.name}-{os.getpid()}")


@contextmanager
def atomic_file(target: Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a new file that replaces ``target`` only if the block ends without an exception.

    Args:
        target: The path of the finished file. Its folder is created if it is missing.
        mode: ``"w"`` or ``"wb"``.
        kwargs: Further arguments of :func:`open`, such as ``newline``. The default encoding is UTF-8.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(target)
    if "b" not in mode:
        kwargs.setdefault("encoding", "utf-8")
    try:
        stream = open(partial, mode, **kwargs)  # noqa: SIM115 -- closed in any case, by ending_with
        with ending_with(stream.close):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
        fsync_path(target.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write an indented JSON file that appears whole or not at all."""
    with atomic_file(target) as stream:
        json.dump(value, stream, ensure_ascii=False, indent=2)
        stream.write("\n")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a new folder to fill, which replaces ``target`` only if the block ends without an exception.

    An older folder of that name is moved aside first and removed afterwards. So at every moment either the
    old or the new folder is complete. A kill between the two renames leaves both under partial names:
    :func:`finish_replacement` puts the new one in its place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for folder, _, names in os.walk(partial, topdown=False):
            for name in names:
                fsync_path(Path(folder) / name)
            fsync_path(Path(folder))
        if target.exists():
            old = target.with_name(f"{PARTIAL_PREFIX}old-{target.name}-{os.getpid()}")
            os.rename(target, old)
            try:
                os.rename(partial, target)
            except BaseException:
                os.rename(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(partial, target)
        fsync_path(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def finish_replacement(target: Path) -> None:
    """Put a folder in its place whose replacement was cut off between its two renames.

    The caller has to hold the lock of ``target``.
    """
    if target.exists() or target.is_symlink():
        return
    beginning = f"{PARTIAL_PREFIX}old-{target.name}-"
    for old in sorted(target.parent.glob(f"{beginning}*")):
        # The old one is moved aside when the new one is whole.
        new = target.with_name(f"{PARTIAL_PREFIX}{target.name}-{old.name.removeprefix(beginning)}")
        os.rename(new if new.is_dir() else old, target)
        return


def foreign_files(folder: Path, ours: Collection[str]) -> list[str]:
    """Files below a folder that aren't ours, sorted. They would be lost if the folder were removed.

    Args:
        folder: A folder that exists.
        ours: Our files, as paths relative to the folder, with slashes.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        by_system = path.name in _SYSTEM_FILES or path.name.startswith((".nfs", "._"))
        if by_system or _PYTHON_CACHE in name.parts or name.as_posix() in ours:
            continue
        if path.is_symlink() or not path.is_dir():
            found.append(name.as_posix())
    return found


def remove_partials(target: Path) -> None:
    """Remove partial folders that killed processes left beside ``target``.

    The caller has to hold the lock of ``target``, so that none of them is in use.
    """
    name = re.escape(target.name)
    left = re.compile(f"{re.escape(PARTIAL_PREFIX)}(old-)?{name}-[0-9]+")
    for path in target.parent.iterdir():
        if left.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
