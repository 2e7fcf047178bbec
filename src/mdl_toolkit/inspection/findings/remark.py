"""A finding of ``inspect``."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mdl_toolkit.inspection.collected import Collected

#: How a finding is judged: training or its evaluation goes wrong; may be meant, and should be looked at; good
#: to know.
PROBLEM, WARNING, NOTE = "problem", "warning", "note"
LEVELS = (PROBLEM, WARNING, NOTE)
#: Rows of a finding that a person is shown.
SHOWN = 5


@dataclass(frozen=True)
class Remark:
    """One finding.

    Attributes:
        level: ``problem``, ``warning`` or ``note``.
        topic: What it is about, in a word or two that don't change; for programs.
        text: What was found, in a sentence.
        remedy: What to do about it.
        rows: The rows that it is about, numbered from 0; none where it is about the set as a whole.
        examples: The first of them, each with what is to be said of it.
    """

    level: str
    topic: str
    text: str
    remedy: str = ""
    rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()

    def as_json(self, collected: Collected) -> dict[str, Any]:
        """The finding as JSON has it: rows are named by their lines."""
        return {
            "level": self.level,
            "topic": self.topic,
            "text": self.text,
            "remedy": self.remedy,
            "rows": len(self.rows),
            "lines": [collected.line(row) for row in self.rows],
            "examples": list(self.examples),
        }


def rows_remark(
    collected: Collected,
    level: str,
    topic: str,
    rows: Sequence[int],
    text: str,
    remedy: str,
    details: Sequence[str] = (),
) -> list[Remark]:
    """A finding about some rows, where there are any.

    Args:
        collected: The set.
        level: See :class:`Remark`.
        topic: See :class:`Remark`.
        rows: The rows.
        text: What was found, to follow their number: ``have no sound``.
        remedy: What to do.
        details: What is to be said of each of the first rows.
    """
    if not rows:
        return []
    examples = [
        collected.row_name(row) + (f": {detail}" if detail else "")
        for row, detail in zip(rows[:SHOWN], [*details, *[""] * SHOWN], strict=False)
    ]
    return [Remark(level, topic, with_verb(len(rows), "row", "", text), remedy, tuple(rows), tuple(examples))]


def with_verb(number: int, what: str, of: str, text: str) -> str:
    """What some things do or are: ``1 row of a.csv is silent``, ``2,700 rows of a.csv are silent``.

    Args:
        number: How many there are.
        what: What they are, of one.
        of: Of what; may be empty.
        text: What is said of several; its first word is the verb, perhaps with a comma.
    """
    verb, _, rest = text.partition(" ")
    if number == 1:
        bare = verb.rstrip(",")
        verb = {"have": "has", "are": "is", "share": "shares"}.get(bare, bare) + verb[len(bare) :]
    parts = (f"{number:,}", what + ("" if number == 1 else "s"), of, verb, rest)
    return " ".join(part for part in parts if part)


def plain(answer: str) -> str:
    """An answer without what may be a slip: case, blanks, a final full stop, unseen characters."""
    seen = "".join(c for c in unicodedata.normalize("NFC", answer) if unicodedata.category(c) != "Cf")
    return " ".join(seen.casefold().split()).rstrip(".")


def quoted(text: str, most: int = 60) -> str:
    """A text of the user's as a message shows it: in one line, with what can't be seen written out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return f"“{shown[:most]}…”" if len(text) > most else f"“{shown}”"
