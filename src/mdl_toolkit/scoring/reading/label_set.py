"""Which labels of a set an answer names."""

from __future__ import annotations

from collections.abc import Iterable

from mdl_toolkit.scoring.reading.words import fold, without_thinking, words


class LabelSet:
    """The labels among which answers choose.

    Labels that differ in case, width or punctuation only are one label, in the first spelling.

    Args:
        labels: The labels; empty ones are passed over.

    Attributes:
        labels: The labels, each once, in the order given.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels: list[str] = []
        self._equal: dict[tuple[str, ...], int] = {}
        self._by_first: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        for label in labels:
            key = _key(label)
            if key and key not in self._equal:
                self._equal[key] = len(self.labels)
                self._by_first.setdefault(key[0], []).append((key, len(self.labels)))
                self.labels.append(label.strip())

    def __len__(self) -> int:
        return len(self.labels)

    def equal(self, text: str) -> int | None:
        """The number of the label that a text is, if it is one."""
        return self._equal.get(_key(text))

    def named(self, answer: str) -> tuple[int, ...]:
        """The numbers of the labels that an answer is or names as whole words, in the order in which it does.

        A name that lies within a longer one doesn't count: "bass" in "bass drum" where both are labels.
        """
        found = self._seen.get(answer)
        if found is None:
            found = self._seen[answer] = self._find(without_thinking(answer))
        return found

    def _find(self, answer: str) -> tuple[int, ...]:
        key = _key(answer)
        equal = self._equal.get(key)
        if equal is not None:
            return (equal,)
        spans = [
            (at, at + len(name), number)
            for at, word in enumerate(key)
            for name, number in self._by_first.get(word, ())
            if key[at : at + len(name)] == name
        ]
        reach = _Reach(spans)
        return tuple(dict.fromkeys(number for start, end, number in spans if not reach.covers(start, end)))


class _Reach:
    """Which of some spans lie within a longer one.

    Args:
        spans: Begin, end and number of each, ordered by begin; no two are the same.
    """

    def __init__(self, spans: list[tuple[int, int, int]]) -> None:
        self._longest: dict[int, int] = {}  # by begin: the farthest end of a span that begins there
        self._before: dict[int, int] = {}  # by begin: the farthest end of a span that begins earlier
        farthest = 0
        for start, end, _ in spans:
            if start not in self._longest:
                self._before[start] = farthest
            self._longest[start] = max(end, self._longest.get(start, 0))
            farthest = max(farthest, end)

    def covers(self, start: int, end: int) -> bool:
        return end < self._longest[start] or end <= self._before[start]


def _key(text: str) -> tuple[str, ...]:
    """What two spellings of a label have in common; a label of punctuation alone is its text."""
    return words(text) or tuple(filter(None, [fold(text)]))
