"""What a table says that is probably not meant, though it can be read: it is reported, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mdl_toolkit.data.input.columns import unread_columns
from mdl_toolkit.data.input.csvfile import Quoted
from mdl_toolkit.data.input.records import Row


class LikelyMistakes:
    """Finds columns that are not read because of their names, and prompts that are the word null.

    Args:
        columns: The names of the table's columns.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._prompts = [i for i, name in enumerate(columns) if name in ("system_prompt", "user_prompt")]
        self._count, self._first = 0, 0

    def look_at(self, row: Row) -> None:
        """Count the row where one of its prompts is the word in quotes: as a prompt it is hardly meant."""
        if any(row.cells[i] == "null" and isinstance(row.cells[i], Quoted) for i in self._prompts):
            self._first = self._first or row.number
            self._count += 1

    def sentences(self) -> Iterator[str]:
        """A sentence for each likely mistake, to follow the table's name in a message."""
        for sentence in unread_columns(self._columns):
            yield f": {sentence}"
        if self._count:
            yield (
                f' line {self._first}: "null" in quotes is the word itself, here as the prompt of '
                f"{self._count} rows; without quotes, or as an empty cell, it is none"
            )
