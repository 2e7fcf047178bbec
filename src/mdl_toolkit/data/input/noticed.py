"""Rows that are good but that the user should look at: all are counted, the first ones are named."""

from __future__ import annotations

import threading

#: Rows of a kind that are named in a message.
SHOWN = 5
#: What to say of clips that :func:`mdl_toolkit.data.audio.pcm16.is_silent` finds.
SILENT = "without any sound (nothing louder than the last of 16 bits)"


class NoticedRows:
    """Rows of one kind; several threads may add to them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count a row, given by its name for people."""
        with self._lock:
            self.count += 1
            if len(self._first) < SHOWN:
                self._first.append(name)

    @property
    def clips(self) -> str:
        """How many, for example ``3 clips``."""
        return f"{self.count} clip{'' if self.count == 1 else 's'}"

    @property
    def names(self) -> str:
        """The first ones, and how many more."""
        more = self.count - len(self._first)
        return ", ".join(self._first) + (f" and {more} more" if more else "")
