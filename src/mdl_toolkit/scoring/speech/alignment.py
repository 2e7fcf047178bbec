"""Two texts laid side by side by jiwer: errors of each row, and a view of them for a person."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdl_toolkit.scoring.task import Floats

#: The columns of a row's counts.
SUBSTITUTIONS, DELETIONS, INSERTIONS, HITS = range(4)


@dataclass(frozen=True)
class Aligned:
    """Texts and answers laid side by side.

    Attributes:
        counts: Substitutions, deletions, insertions and hits of each row, float64 [rows, 4].
    """

    counts: Floats

    @property
    def reference(self) -> Floats:
        """How many words or characters each reference has, float64 [rows]."""
        total: Floats = self.counts[:, (SUBSTITUTIONS, DELETIONS, HITS)].sum(axis=1)
        return total

    @property
    def errors(self) -> Floats:
        """How many errors each row has, float64 [rows]."""
        total: Floats = self.counts[:, (SUBSTITUTIONS, DELETIONS, INSERTIONS)].sum(axis=1)
        return total

    def totals(self) -> dict[str, int]:
        """The sums over all rows, for ``scores.json``."""
        sums = self.counts.sum(axis=0)
        return {
            "substitutions": int(sums[SUBSTITUTIONS]),
            "deletions": int(sums[DELETIONS]),
            "insertions": int(sums[INSERTIONS]),
            "hits": int(sums[HITS]),
            "reference": int(self.reference.sum()),
        }


def align_words(references: Sequence[str], answers: Sequence[str]) -> Aligned:
    """Align texts whose words have one blank between."""
    from jiwer import process_words

    return _aligned(process_words([*references], [*answers]).alignments) if references else _none()


def align_characters(references: Sequence[str], answers: Sequence[str]) -> Aligned:
    """Align texts character by character; a blank between words is one."""
    from jiwer import process_characters

    return _aligned(process_characters([*references], [*answers]).alignments) if references else _none()


def side_by_side(reference: str, answer: str) -> str:
    """Two lines, one word below the other, and a third that says what is wrong.

    ``S`` is a word that became another one, ``D`` one that is missing, ``I`` one too many; ``*`` stands where
    the other line has a word more.
    """
    from jiwer import process_words

    wanted, given = reference.split(), answer.split()
    rows: list[tuple[str, str, str]] = []
    for chunk in process_words([reference], [answer]).alignments[0]:
        there = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        here = given[chunk.hyp_start_idx : chunk.hyp_end_idx]
        mark = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        for place in range(max(len(there), len(here))):
            one = there[place] if place < len(there) else "*" * len(here[place])
            other = here[place] if place < len(here) else "*" * len(there[place])
            rows.append((one, other, mark))
    lines = ["", "", ""]
    for cells in rows:
        width = max(map(_width, cells))
        lines = [
            f"{line} {cell}{' ' * (width - _width(cell))}" for line, cell in zip(lines, cells, strict=True)
        ]
    names = ("reference", "answer   ", "         ")
    return "\n".join(f"{name}{line}".rstrip() for name, line in zip(names, lines, strict=True))


def _aligned(alignments: Sequence[Sequence[Any]]) -> Aligned:
    counts = np.zeros((len(alignments), 4))
    columns = {"substitute": SUBSTITUTIONS, "delete": DELETIONS, "insert": INSERTIONS, "equal": HITS}
    for row, chunks in zip(counts, alignments, strict=True):
        for chunk in chunks:
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            row[columns[chunk.type]] += length
    return Aligned(counts)


def _none() -> Aligned:
    return Aligned(np.zeros((0, 4)))


def _width(text: str) -> int:
    """The columns of a terminal that a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
