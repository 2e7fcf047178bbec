"""CIDEr-D against the numbers of the COCO caption evaluation's own code."""

from __future__ import annotations

import pytest

from mdl_toolkit.scoring.measures.cider import cider

CLIPS = [
    (
        "a dog barks while rain falls",
        ["a dog barks in the rain", "rain falls while a dog barks loudly", "a dog is barking"],
        2.9830287791741,
    ),
    (
        "a man is speaking",
        ["a man speaks and a car passes by", "a man is talking as a car drives past"],
        1.3924695955805038,
    ),
    (
        "birds sing in the forest birds sing birds sing",
        [
            "birds sing in the forest",
            "birds are chirping and singing",
            "many birds sing in a quiet forest in the morning",
        ],
        2.0752475355291997,
    ),
    ("a bucket", ["water drips into a metal bucket", "water is dripping"], 0.44762581626215525),
    (
        "a crowd applauds and cheers loudly",
        ["people applaud", "a crowd claps and cheers"],
        1.2775572295094766,
    ),
]


def _scores(candidates: list[str]) -> list[float]:
    references = [[reference.split() for reference in references] for _, references, _ in CLIPS]
    return cider([candidate.split() for candidate in candidates], references)


def test_scores_are_those_of_the_original():
    """pycocoevalcap 1.2's ``Cider().compute_score`` on these captions."""
    found = _scores([candidate for candidate, _, _ in CLIPS])
    assert found == pytest.approx([score for _, _, score in CLIPS], rel=1e-12)


def test_an_empty_caption_has_nothing():
    assert _scores([""] * len(CLIPS)) == [0.0] * len(CLIPS)


def test_one_clip_alone_has_no_rare_words():
    assert cider([["a", "dog"]], [[["a", "dog"]]]) == [0.0]
    assert cider([], []) == []
