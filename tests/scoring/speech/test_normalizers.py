"""Which normaliser is taken, and Whisper's as it was published."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer as Published
from whisper_normalizer.english import EnglishSpellingNormalizer

from mdl_toolkit.scoring.speech import normalizers
from mdl_toolkit.scoring.speech.english import english_normalizer
from mdl_toolkit.scoring.speech.normalizers import guessed_normalizer, normalized, normalizer_of

ODD = [
    "I dunno 'cause the cause was kinda sorta lost", "Mr. Smith won't pay $20 million", "COLOUR, gray!",
    "twenty one [noise] (laughs) one oh one", "it 's been 3,000 days since the 1960s", "",
]  # fmt: skip


def test_the_english_normaliser_is_the_one_that_was_published():
    """The library's rules of its own would change figures that others compare with."""
    ours, theirs = english_normalizer(), Published(EnglishSpellingNormalizer().mapping)
    assert [ours(text) for text in ODD] == [theirs(text) for text in ODD]


def test_what_is_passed_over_changes_nothing():
    """Texts of the words and signs that its rules are about."""
    rng = random.Random(1)
    ours, theirs = english_normalizer(), Published(EnglishSpellingNormalizer().mapping)
    words = (
        "mr st. dr jr it 's 's 'd been he'd gone won't n't n 't um uh (x) [y] <z> and a half half point five "
        "twenty one hundred oh o double seven second thirds $5 5% £3.20 1,000 10 20s cents dollars per cent "
        "colour grey cause , . - ' 't ma'am I'M imma y'all the cat"
    )
    for _ in range(4000):
        text = rng.choice((" ", "  ", "")).join(["the", *rng.choices(words.split(), k=rng.randrange(1, 9))])
        assert ours(text) == theirs(text), text


def test_it_is_on_published_texts(shared_eval: Path):
    ours, theirs = english_normalizer(), Published(EnglishSpellingNormalizer().mapping)
    with open(shared_eval / "MiDashengLM_LibriSpeech_test-clean.jsonl", encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream][::4]
    assert [ours(text) for text in texts] == [theirs(text) for text in texts]


@pytest.mark.parametrize(
    ("language", "kind"),
    [
        ("en", "english"), ("en-US", "english"), ("English", "english"), ("<|en|>", "english"),
        ("zh", "chinese"), ("zh-CN", "chinese"), ("zh_TW", "chinese"), ("Mandarin", "chinese"),
        ("de", "basic"), ("ja", "basic"), ("xx", "basic"),
    ],
)  # fmt: skip
def test_a_language_has_its_normaliser(language: str, kind: str):
    assert normalizer_of(language) == kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["yes", "no", "42"], "english"),
        (["the cat sat on the mat and looked at the dog"] * 30, "english"),
        (["de kat zat op de mat en keek naar zijn hond"] * 30, "basic"),
        (["Die Tür wäre schön grün"] * 3, "basic"),
        (["今天天气很好", "OK", "打开 wifi"], "chinese"),
        ([], "chinese"),
    ],
)
def test_without_a_language_texts_tell(texts: list[str], kind: str):
    assert texts == [] or guessed_normalizer(texts) == kind


def test_all_texts_go_through_it_once(monkeypatch: pytest.MonkeyPatch):
    assert normalized(["A b", "A b", " c "], "none") == ["A b", "A b", "c"]
    assert normalized(["Ä, b!", "(x) y"], "basic") == ["ä b", "y"]
    monkeypatch.setattr(normalizers, "_MANY", 4)
    monkeypatch.setattr(normalizers, "_PIECE", 3)
    texts = [f"Mr. Smith, colour {number}!" for number in range(20, 30)]
    assert normalized(texts, "english") == [f"mister smith color {number}" for number in range(20, 30)]
