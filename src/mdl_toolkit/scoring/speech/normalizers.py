"""Bringing texts to a form in which speech can be compared: which normaliser, and all texts through it."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from mdl_toolkit.scoring.speech.chinese import chinese_normalizer, has_chinese
from mdl_toolkit.scoring.speech.english import english_normalizer

#: From this number of different texts on, several processes take part.
_MANY = 20_000
_PIECE = 2_000
#: Characters that nobody sees or says: blanks of no width, byte-order marks, soft hyphens.
_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF, 0xAD))
#: Words that a tenth of any English text is made of.
_ENGLISH_WORDS = frozenset(
    {"the", "of", "and", "to", "a", "in", "is", "that", "it", "you", "i", "was", "for", "he", "on", "with"}
)
#: Texts that are looked at, from all over the table.
_LOOKED_AT = 2_000
#: Words from which on a text tells by them whether it is English.
_ENOUGH_WORDS = 200
_LANGUAGES = {
    "english": ("en", "eng", "english"),
    "chinese": ("zh", "chinese", "mandarin", "cn", "cmn", "yue"),
}


def normalizer_of(language: str) -> str:
    """The normaliser for a language as tables name it: ``en``, ``zh-CN``, ``english``; others are basic."""
    name = re.split(r"[-_ ]", language.strip().strip("<|>").lower())[0]
    return next((kind for kind, names in _LANGUAGES.items() if name in names), "basic")


def guessed_normalizer(references: Sequence[str]) -> str:
    """The normaliser for texts of one language that isn't named.

    Chinese where half of the texts have Chinese characters; English where letters are ASCII alone and, in
    texts of some length, words are those of English; else basic.
    """
    references = references[:: max(1, len(references) // _LOOKED_AT)]
    if 2 * sum(map(has_chinese, references)) >= max(1, len(references)):
        return "chinese"
    letters = Counter(letter.isascii() for text in references for letter in text if letter.isalpha())
    if letters[True] < 0.995 * letters.total():
        return "basic"
    words = [word for text in references for word in re.findall(r"[a-z]+", text.lower())]
    common = sum(word in _ENGLISH_WORDS for word in words)
    return "english" if len(words) < _ENOUGH_WORDS or common > 0.1 * len(words) else "basic"


def normalized(texts: Sequence[str], kind: str) -> list[str]:
    """All texts in a normaliser's form: words with one blank between.

    Args:
        texts: The texts.
        kind: ``none``, ``basic``, ``english`` or ``chinese``.
    """
    different = list(dict.fromkeys(texts))
    processes = min(os.cpu_count() or 1, 8)
    if len(different) < _MANY or processes == 1 or kind == "none":
        return _looked_up(texts, different, _piece(kind, different))
    pieces = [different[start : start + _PIECE] for start in range(0, len(different), _PIECE)]
    # A fork would copy whatever threads and locks the program has; a spawned process begins clean.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context) as pool:
            made = list(pool.map(_piece, [kind] * len(pieces), pieces))
    except (BrokenProcessPool, OSError):  # no further process is allowed here: this one does it alone
        made = [_piece(kind, piece) for piece in pieces]
    return _looked_up(texts, different, [text for piece in made for text in piece])


def _looked_up(texts: Sequence[str], different: Sequence[str], made: Sequence[str]) -> list[str]:
    found = dict(zip(different, made, strict=True))
    return [found[text] for text in texts]


def _piece(kind: str, texts: Sequence[str]) -> list[str]:
    normalize = _NORMALIZERS[kind]()
    return [" ".join(normalize(text.translate(_INVISIBLE)).split()) for text in texts]


def _no_normalizer() -> Callable[[str], str]:
    return str


def _basic_normalizer() -> Callable[[str], str]:
    """Whisper's normaliser for all languages: case, symbols and brackets."""
    from whisper_normalizer.basic import BasicTextNormalizer

    normalize: Callable[[str], str] = BasicTextNormalizer()
    return normalize


_NORMALIZERS: dict[str, Callable[[], Callable[[str], str]]] = {
    "none": _no_normalizer,
    "basic": _basic_normalizer,
    "english": english_normalizer,
    "chinese": chinese_normalizer,
}
