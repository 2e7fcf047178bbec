"""Whisper's English normaliser, as OpenAI published it.

The package ``whisper-normalizer`` has its code with rules added, one of which makes every "cause" a "because"
(its 0.1.10 to 0.1.15 are the same here). Published word error rates are those of the original rules.
"""

from __future__ import annotations

from collections.abc import Callable

#: Rules of ``EnglishTextNormalizer.replacers`` that the original doesn't have.
_ADDED = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")


def english_normalizer() -> Callable[[str], str]:
    """Whisper's English normaliser; the texts that it gives may begin or end with a blank."""
    from whisper_normalizer.english import EnglishTextNormalizer

    made = EnglishTextNormalizer()
    for rule in _ADDED:
        made.replacers.pop(rule, None)
    normalize: Callable[[str], str] = made
    return normalize
