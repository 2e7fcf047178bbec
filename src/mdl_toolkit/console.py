"""What a person sees: one process of a run speaks, progress shows rate and time left, warnings stand out.

Everything goes to standard error, so that standard output stays free for results.
"""

from __future__ import annotations

import json
import os
import sys
import time

#: Where torchrun looks for the cause of a process's failure.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
#: Head start of the process that says what is wrong for all.
_MODESTY_SECONDS = 5.0


def is_main_process() -> bool:
    """Whether this is the one process of a launch that prints (rank 0; also outside any launcher)."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def say(message: str = "") -> None:
    """Print a line, on the main process only."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def warn(message: str) -> None:
    """Print a warning, on the main process only."""
    say(f"warning: {message}")


def tell_torchrun(cause: str) -> bool:
    """Leave the cause of a failure where torchrun looks for it: it becomes the last thing in its own report.

    Returns:
        Whether torchrun (or accelerate, which uses it) will report it.
    """
    path = os.environ.get(_ERROR_FILE)
    if not path:
        return False
    report = {"message": {"message": cause, "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(report, stream)
    except OSError:
        return False
    return True


def give_way() -> None:
    """Under torchrun, wait for the end that the process with the cause brings; elsewhere do nothing.

    torchrun reports whichever process it sees ended first, and ends the others.
    """
    if os.environ.get(_ERROR_FILE):
        time.sleep(_MODESTY_SECONDS)


def duration(seconds: float) -> str:
    """A length of time for people: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A counter with rate and time left: one live line on a terminal, a line now and then elsewhere.

    Args:
        label: What is being done.
        total: How many there are; ``None`` where it isn't known.
        unit: What is counted.
        every: Seconds between lines where standard error is not a terminal.
    """

    def __init__(self, label: str, total: int | None, unit: str = "rows", every: float = 10.0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._live = sys.stderr.isatty()
        self._every = 0.2 if self._live else every
        self._start = self._last = time.monotonic()
        self.done = 0

    def update(self, count: int = 1, note: str = "") -> None:
        """Count some more and show it when it is time to."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= self._every and is_main_process():
            self._last = now
            self._show(now, note)

    def _show(self, now: float, note: str) -> None:
        elapsed = max(now - self._start, 1e-9)
        rate = self.done / elapsed
        parts = [f"{self.label}: {self.done}"]
        if self.total:
            parts[0] += f"/{self.total} {self.unit} ({100 * self.done / self.total:.0f} %)"
        else:
            parts[0] += f" {self.unit}"
        parts.append(f"{rate:.1f}/s")
        if self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if note:
            parts.append(note)
        line = ", ".join(parts)
        if self._live:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)  # noqa: T201
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def clear(self) -> None:
        """Remove the live line, so that something else can stand there."""
        if self._live and is_main_process():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)  # noqa: T201

    def close(self, message: str | None = None) -> None:
        """Clear the live line and print a closing one."""
        self.clear()
        elapsed = time.monotonic() - self._start
        say(message or f"{self.label}: {self.done} {self.unit} in {duration(elapsed)}")
