"""Task ``asr``: word and character error rates of transcripts, after a normaliser.

Rows whose reference is empty after the normaliser are left out, as in published figures: there is nothing to
get wrong but insertions. An empty answer isn't left out; all its words are deletions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdl_toolkit.scoring.speech.alignment import (
    DELETIONS,
    INSERTIONS,
    SUBSTITUTIONS,
    Aligned,
    align_characters,
    align_words,
    side_by_side,
)
from mdl_toolkit.scoring.speech.chinese import without_blanks
from mdl_toolkit.scoring.speech.normalizers import guessed_normalizer, normalized, normalizer_of
from mdl_toolkit.scoring.task import Floats, Judged, SumStatistics, Texts, every_of, first_of, ratio

#: The reason for which a row is left out.
EMPTY = "reference empty after the normaliser"


class AsrTask:
    """Aligns words and characters by jiwer."""

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        wanted = [first_of(reference) for reference in texts.references]
        given = ["" if answer is None else " ".join(every_of(answer)) for answer in texts.predictions]
        kinds, why = _kinds(texts, wanted)
        references, answers = _normalized(wanted, kinds), _normalized(given, kinds)
        words = align_words(references, answers)
        characters = align_characters(*(_characters(side, kinds) for side in (references, answers)))
        empty = [place for place, reference in enumerate(references) if not reference]
        for aligned in (words, characters):
            aligned.counts[empty] = 0
        sums = (words.errors, words.reference, characters.errors, characters.reference)
        rates = [_rate(*pair) for pair in zip(words.errors, words.reference, strict=True)]
        names = " and ".join(sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)))
        return Judged(
            SumStatistics(np.stack(sums, axis=1), _error_rates),
            rates,
            [None if rate is None else rate == 0 for rate in rates],
            columns=_columns(references, answers, words),
            details={
                "normalizer": names,
                "errors": {"words": words.totals(), "characters": characters.totals()},
            },
            left_out={EMPTY: empty},
            remarks=[f"normalizer {names} ({why})"],
            alignments=lambda place: side_by_side(references[place], answers[place]),
        )


def _kinds(texts: Texts, references: Sequence[str]) -> tuple[list[str], str]:
    """The normaliser of each row, and how it was chosen."""
    rows = len(references)
    if texts.normalizer is not None:
        return [texts.normalizer] * rows, "--normalizer"
    language = texts.language
    named = [language or ""] * rows if language is None or isinstance(language, str) else language
    known = {name: normalizer_of(name) for name in set(named) if name.strip()}
    guessed = guessed_normalizer(references) if len(known) < len(set(named)) else ""
    if not known:
        return [guessed] * rows, "by the look of the references; --normalizer names another"
    why = "by the language of each row; --normalizer names another"
    return [known.get(name, guessed) for name in named], why


def _normalized(texts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    found = [""] * len(texts)
    for kind in dict.fromkeys(kinds):
        places = [place for place, own in enumerate(kinds) if own == kind]
        for place, text in zip(places, normalized([texts[p] for p in places], kind), strict=True):
            found[place] = text
    return found


def _characters(texts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The texts to compare by character: between Chinese characters a blank is nothing that is said."""
    return [
        without_blanks(text) if kind == "chinese" else text for text, kind in zip(texts, kinds, strict=True)
    ]


def _error_rates(sums: Floats) -> Mapping[str, Floats]:
    return {"wer": ratio(sums[:, 0], sums[:, 1]), "cer": ratio(sums[:, 2], sums[:, 3])}


def _rate(errors: float, reference: float) -> float | None:
    return float(errors / reference) if reference else None


def _columns(references: list[str], answers: list[str], words: Aligned) -> Mapping[str, Sequence[object]]:
    counts = words.counts.astype(np.int64)
    return {
        "normalized_reference": references,
        "normalized_prediction": answers,
        "substitutions": counts[:, SUBSTITUTIONS].tolist(),
        "deletions": counts[:, DELETIONS].tolist(),
        "insertions": counts[:, INSERTIONS].tolist(),
        "reference_words": words.reference.astype(np.int64).tolist(),
    }
