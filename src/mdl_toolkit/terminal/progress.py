"""How far the work is: a live line on a terminal, a message now and then elsewhere."""

from __future__ import annotations

import time

from mdl_toolkit.terminal.live_line import LIVE
from mdl_toolkit.terminal.logs import get_logger, is_main_process

logger = get_logger(__name__)

#: Seconds between two updates of a live line.
_LIVE_SECONDS = 0.2


def duration(seconds: float) -> str:
    """A length of time for people: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Ticker:
    """A line that says how far the work is: live on a terminal, a message now and then elsewhere.

    Args:
        every: Seconds between messages where there is no live line.
    """

    def __init__(self, every: float = 10.0) -> None:
        self._every = every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for :meth:`show`."""
        passed = time.monotonic() - self._last
        if passed < _LIVE_SECONDS or not is_main_process():
            return False
        return passed >= self._every or LIVE.possible()

    def show(self, line: str) -> None:
        """Show how far the work is now."""
        self._last = time.monotonic()
        if LIVE.possible():
            LIVE.show(line)
        else:
            logger.info(line)


class Progress:
    """A counter with rate and time left, shown as :class:`Ticker` shows a line.

    Args:
        label: What is being done.
        total: How many there are; ``None`` where it isn't known.
        unit: What is counted.
        every: Seconds between messages where there is no live line.
    """

    def __init__(self, label: str, total: int | None, unit: str = "rows", every: float = 10.0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._ticker, self._start = Ticker(every), time.monotonic()
        self.done = 0

    def update(self, count: int = 1) -> None:
        """Count some more and show it when it is time to."""
        self.done += count
        if self._ticker.due():
            self._ticker.show(self._line())

    def _line(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / elapsed
        parts = [f"{self.label}: {self.done}"]
        if self.total:
            parts[0] += f"/{self.total} {self.unit} ({100 * self.done / self.total:.0f} %)"
        else:
            parts[0] += f" {self.unit}"
        parts.append(f"{rate:.1f}/s")
        if self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def clear(self) -> None:
        """Remove the live line, so that something else can stand there."""
        LIVE.clear()

    def close(self, message: str | None = None) -> None:
        """Clear the live line and say how it ended."""
        elapsed = time.monotonic() - self._start
        LIVE.clear()
        logger.info(message or f"{self.label}: {self.done} {self.unit} in {duration(elapsed)}")
