"""Task ``qa``: short answers, by exact match and by the words that they share, as SQuAD has it."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mdl_toolkit.scoring.reading.lists import texts_of
from mdl_toolkit.scoring.reading.words import UNSPACED, fold, without_thinking
from mdl_toolkit.scoring.task import Floats, Judged, SumStatistics, Texts, ratio

_ARTICLES = frozenset({"a", "an", "the"})
_TOKENS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


class QaTask:
    """Compares an answer with one or several right ones; the one that fits best counts.

    Case, Unicode width, punctuation, blanks and the articles a, an, the make no difference. Scripts without
    blanks between words are compared by character.
    """

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        found = [
            _best(texts_of(reference), "" if given is None else "; ".join(texts_of(given)))
            for reference, given in zip(texts.references, texts.predictions, strict=True)
        ]
        failed = np.array([given is None for given in texts.predictions])
        values = np.array([[f1, exact, 1.0] for f1, exact in found])
        values[failed, :2] = 0
        exact = values[:, 1] > 0
        statistics = SumStatistics(values, _means, counted={"exact_match": (1, 2)})
        return Judged(statistics, values[:, 0].tolist(), exact.tolist())


def answer_tokens(text: str) -> list[str]:
    """What counts of an answer: SQuAD's words, or the characters of a script without blanks."""
    plain = "".join(c for c in fold(without_thinking(text)) if not _is_punctuation(c))
    return [token for token in _TOKENS.findall(plain) if token not in _ARTICLES]


def _is_punctuation(character: str) -> bool:
    """Whether SQuAD leaves it out: ASCII's symbols (``$``, ``+``) are, and all punctuation of Unicode."""
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _best(references: Sequence[str], given: str) -> tuple[float, float]:
    """The highest F1 and whether any reference is the answer."""
    tokens = answer_tokens(given)
    scores = [_f1(answer_tokens(reference), tokens) for reference in references] or [_f1([], tokens)]
    return max(f1 for f1, _ in scores), max(exact for _, exact in scores)


def _f1(wanted: list[str], given: list[str]) -> tuple[float, float]:
    if not wanted or not given:
        same = float(wanted == given)
        return same, same
    shared = sum((Counter(wanted) & Counter(given)).values())
    return 2 * shared / (len(wanted) + len(given)), float(wanted == given)


def _means(sums: Floats) -> Mapping[str, Floats]:
    return {"f1": ratio(sums[:, 0], sums[:, 2]), "exact_match": ratio(sums[:, 1], sums[:, 2])}
