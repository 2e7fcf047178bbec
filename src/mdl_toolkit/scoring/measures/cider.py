"""CIDEr-D: how alike a caption and its references are in the words that tell clips apart.

Vedantam, Zitnick, Parikh: CIDEr: Consensus-based Image Description Evaluation (2015), in the form D that the
COCO caption evaluation computes. Words that stand in the references of many clips weigh little, so a
caption's score depends on all references of the table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Tokens: TypeAlias = Sequence[str]
Gram: TypeAlias = "tuple[str, ...]"

#: N-grams of one to so many words.
_LONGEST = 4
#: How fast a score falls with the difference in length.
_SIGMA = 6.0
#: COCO's scale: identical captions of rare words come to 10.
_SCALE = 10.0


@dataclass(frozen=True)
class _Vector:
    """The weights of a caption's n-grams, by length, with their Euclidean norms."""

    weights: Sequence[dict[Gram, float]]
    norms: Sequence[float]
    length: int


def cider(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """The score of each caption, from 0 to 10.

    Args:
        candidates: The captions, divided into words.
        references: The references of each; how rare an n-gram is is counted over them.
    """
    counted = [[_grams(reference) for reference in row] for row in references]
    clips_with = Counter(gram for row in counted for gram in {gram for grams in row for gram in grams})
    rows = math.log(len(references)) if references else 0.0
    rarity = {gram: rows - math.log(clips) for gram, clips in clips_with.items()}
    return [
        _score(_vector(_grams(tokens), rarity, rows), [_vector(grams, rarity, rows) for grams in row])
        for tokens, row in zip(candidates, counted, strict=True)
    ]


def _grams(tokens: Tokens) -> Counter[Gram]:
    return Counter(
        tuple(tokens[at : at + n]) for n in range(1, _LONGEST + 1) for at in range(len(tokens) - n + 1)
    )


def _vector(grams: Counter[Gram], rarity: dict[Gram, float], unseen: float) -> _Vector:
    weights: list[dict[Gram, float]] = [{} for _ in range(_LONGEST)]
    for gram, count in grams.items():
        weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    norms = [math.sqrt(sum(weight * weight for weight in part.values())) for part in weights]
    # The original measures a caption's length by its pairs of words.
    return _Vector(weights, norms, sum(count for gram, count in grams.items() if len(gram) == 2))


def _score(candidate: _Vector, references: Sequence[_Vector]) -> float:
    if not references:
        return 0.0
    alike = sum(_similarity(candidate, reference) for reference in references)
    return _SCALE * alike / (_LONGEST * len(references))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """The sum over lengths of n-grams of the cosine, in which a word repeated beyond the reference is cut."""
    whole = 0.0
    for n in range(_LONGEST):
        norms = candidate.norms[n] * reference.norms[n]
        if norms:
            wanted = reference.weights[n]
            dot = sum(
                min(weight, wanted[gram]) * wanted[gram]
                for gram, weight in candidate.weights[n].items()
                if gram in wanted
            )
            whole += dot / norms
    return whole * math.exp(-((candidate.length - reference.length) ** 2) / (2 * _SIGMA**2))
