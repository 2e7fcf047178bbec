"""The words of a text, by which answers and labels are compared. Standard library alone.

Case, Unicode width and punctuation make no difference. Scripts that are written without blanks between words
(Chinese, Japanese, Thai, Lao, Khmer, Burmese; Korean too, whose particles cling to words) are read by
character: each is a word of its own.
"""

from __future__ import annotations

import re
import unicodedata

#: Characters of scripts without blanks between words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
)
#: Marks that belong to the letter before them and that ``\w`` leaves out: Latin's, Hebrew's, Arabic's,
#: India's.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0670"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0dff"
)
_WORDS = re.compile(
    rf"(?P<symbol>[+#%$@])"
    rf"|(?P<unspaced>[{UNSPACED}])"
    rf"|(?P<number>(?<![\w.])-?\d+(?:\.\d+)*(?![^\W_{UNSPACED}]))"
    rf"|(?P<suffix>(?<=\w)'(?:s|t|d|m|re|ve|ll)(?!\w))"
    rf"|(?P<word>[^\W_{UNSPACED}{_MARKS}](?:[^\W_{UNSPACED}]|[{_MARKS}])*)"
    rf"|(?P<other>[^\w\s])"
)
#: One character for each of several that look alike.
_ALIKE = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2212": "-", "\u2010": "-", "\u2011": "-"}
)
_NON = re.compile(r"\bnon[-_ ](?=\w)")
_THINKING = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL | re.IGNORECASE)
#: Symbols that decorate a text (Markdown, arrows of a listing) and say nothing.
_DECORATION = frozenset("<>=|~^`")


def fold(text: str) -> str:
    """A text without differences of case, Unicode width and blanks."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_ALIKE).split())


def without_thinking(text: str) -> str:
    """An answer without what a model thinks aloud before it, in ``<think>…</think>``."""
    return _THINKING.sub(" ", text) if "</think>" in text.lower() else text


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for comparing.

    Punctuation and ``_`` divide words and are left out. Kept as words of their own are symbols that tell
    labels apart (``c`` and ``c++``, ``f#``, ``50 %``, emoji); ``&`` is the word ``and``. A number is one word
    with its sign and decimals (``-1``, ``0.5``). ``'s`` is a word of its own, and ``non-speech``, ``non
    speech`` and ``nonspeech`` are one and the same.
    """
    found = []
    for match in _WORDS.finditer(_NON.sub("non", fold(text))):
        word = match.group()
        if match.lastgroup == "other":
            if word == "&":
                word = "and"
            elif unicodedata.category(word)[0] != "S" or word in _DECORATION:
                continue
        found.append(word)
    return tuple(found)
