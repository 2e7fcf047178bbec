"""Data workers that something happens to at a row: code that each runs before it serves."""

from __future__ import annotations

import os
import re
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from mdl_toolkit.data import child_process

#: What can happen when a worker is about to read a row.
ACCIDENTS = {
    "hangs": "time.sleep(600)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "stops": "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
    "loses its thread": "raise SystemExit",
    "aborts": "os.abort()",
    "finds a bad row": "raise DataError(self.row_name(index) + ': has gone')",
    "has no memory": "raise MemoryError",
    "raises what can't be pickled": "raise type('Odd', (Exception,), {'f': (lambda: 0)})('odd one')",
}


def accident(what: str, row: int | None = None, after: tuple[Path, int] | None = None) -> str:
    """Code for a worker to which an accident happens.

    Args:
        what: One of :data:`ACCIDENTS`.
        row: When it is about to read this row; else any.
        after: Not before this file has so many lines.
    """
    path, lines = after or (Path("/dev/null"), 0)
    return textwrap.dedent(
        f"""
        import os, signal, time
        from mdl_toolkit.data.dataset.dataset import ClipDataset
        from mdl_toolkit.errors import DataError
        read = ClipDataset.__getitem__
        def grown():
            try:
                return open({str(path)!r}).read().count("\\n") >= {lines}
            except FileNotFoundError:
                return False
        def reading(self, index):
            if {row} in (None, index) and grown():
                {ACCIDENTS[what]}
            return read(self, index)
        ClipDataset.__getitem__ = reading
        """
    )


def with_code(template: str, code: str) -> str:
    """What a worker runs, with some code before it serves."""
    literal = repr(code).replace("{", "{{").replace("}", "}}")
    return template.replace("; end_with_parent", f"; exec({literal}); end_with_parent", 1)


def tamper(
    monkeypatch: pytest.MonkeyPatch, what: str, row: int | None = None, after: tuple[Path, int] | None = None
) -> None:
    """Let an accident happen to the workers that this process starts; arguments as :func:`accident`."""
    monkeypatch.setattr(child_process, "_CODE", with_code(child_process._CODE, accident(what, row, after)))


def data_workers(parent: int | None = None) -> list[int]:
    """Living data workers of a process, by default this one."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, of = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            ours = int(of) == (parent or os.getpid()) and state not in "ZX"
            if ours and b"mdl_toolkit.data.batching.preparing" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def state_of(pid: int) -> str:
    """A process's state as one letter; ``X`` for one that is gone."""
    try:
        found = re.search(r"\) (\w) ", Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return "X"
    return found[1] if found else "X"
