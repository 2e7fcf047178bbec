"""A disk on which one operation fails, as on a full one."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class FailingWrites:
    """Lets the n-th operation that changes the disk fail as a full disk does; n = 0 counts them only."""

    def __init__(self, number: int, folder: Path, short: bool = False) -> None:
        self.number, self.folder, self.short, self.count = number, folder, short, 0
        self.told: list[str] = []
        self.places: list[str] = []

    def due(self, what: str, path: Any) -> bool:
        if not str(path).startswith(str(self.folder)):
            return False
        self.count += 1
        self.told.append(what)
        self.places.append(str(path))
        return self.count == self.number

    @contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in ("mkdir", "replace", "rename"):
                patch.setattr(os, name, self._guarded(name, getattr(os, name)))
            fsync = os.fsync
            patch.setattr(
                os, "fsync", lambda fd: self._fail("fsync", os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd)
            )
            patch.setattr(builtins, "open", self._open(builtins.open))
            patch.setattr(io, "open", self._open(io.open))
            accessor = getattr(
                pathlib, "_NormalAccessor", None
            )  # Python 3.10's paths hold on to the functions
            for name in ("mkdir", "replace", "rename") if accessor else ():
                patch.setattr(accessor, name, staticmethod(getattr(os, name)))
            if accessor:
                patch.setattr(accessor, "open", staticmethod(io.open))
            yield

    def _fail(self, what: str, path: Any) -> None:
        if self.due(what, path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *rest: Any, **more: Any) -> Any:
            if not (name == "mkdir" and os.path.isdir(path)):  # which changes nothing, and may fail unheard
                self._fail(name, path)
            return function(path, *rest, **more)

        return guarded

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            stream = function(path, mode, *rest, **more)
            if isinstance(path, int) or not set(mode) & set("wax+"):
                return stream
            write = stream.write

            def guarded_write(data: Any) -> Any:
                if self.due("write", path):
                    if self.short:
                        write(data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                return write(data)

            return _Stream(stream, guarded_write)

        return guarded


class _Stream:
    """A file whose ``write`` is another."""

    def __init__(self, stream: Any, write: Callable[[Any], Any]) -> None:
        self._stream, self.write = stream, write

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)
