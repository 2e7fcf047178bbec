"""Which labels of a set an answer names."""

from __future__ import annotations

import pytest

from mdl_toolkit.scoring.reading.label_set import LabelSet
from mdl_toolkit.scoring.reading.words import words


def _named(answer: str, labels: list[str]) -> list[str]:
    given = LabelSet(labels)
    return [given.labels[number] for number in given.named(answer)]


@pytest.mark.parametrize(
    ("answer", "labels", "named"),
    [
        # equal, whatever case, punctuation, width and blanks
        ("dog", ["cat", "dog"], ["dog"]),
        ("Dog.", ["cat", "dog"], ["dog"]),
        (" DOG \n", ["cat", "dog"], ["dog"]),
        ("ｄｏｇ", ["cat", "dog"], ["dog"]),
        ("**dog**", ["cat", "dog"], ["dog"]),
        ("hip hop", ["hip-hop", "rock"], ["hip-hop"]),
        ("Rock and Roll", ["rock & roll", "pop"], ["rock & roll"]),
        ("cafe\u0301", ["caf\u00e9"], ["caf\u00e9"]),
        # named
        ("It is a dog.", ["cat", "dog"], ["dog"]),
        ("the dog's bark", ["cat", "dog"], ["dog"]),
        ("electric_guitar", ["guitar", "bass"], ["guitar"]),
        ("<think>cat?</think> dog", ["cat", "dog"], ["dog"]),
        ("a cat and a dog", ["cat", "dog"], ["cat", "dog"]),
        # whole words only
        ("dogs", ["cat", "dog"], []),
        ("female", ["male", "female"], ["female"]),
        ("a female voice", ["male", "female"], ["female"]),
        ("female", ["male"], []),
        ("category", ["cat"], []),
        ("it's", ["s", "t"], []),
        # a label within a longer named one
        ("a bass drum", ["bass", "bass drum", "drum"], ["bass drum"]),
        ("bass drum and bass", ["bass", "bass drum"], ["bass drum", "bass"]),
        (
            "electric guitar solo",
            ["electric guitar", "guitar solo", "guitar"],
            ["electric guitar", "guitar solo"],
        ),
        ("speech", ["speech", "non-speech"], ["speech"]),
        ("non-speech", ["speech", "non-speech"], ["non-speech"]),
        ("Non speech sounds", ["speech", "non-speech"], ["non-speech"]),
        ("non-speech", ["speech", "music"], []),
        # symbols and numbers are part of labels
        ("It is C++.", ["c", "c++", "c#"], ["c++"]),
        ("C", ["c", "c++", "c#"], ["c"]),
        ("-1", ["-1", "0", "1"], ["-1"]),
        ("1", ["-1", "0", "1"], ["1"]),
        ("the score is -1.", ["-1", "0", "1"], ["-1"]),
        ("1.5", ["1", "5", "1.5"], ["1.5"]),
        ("1.5", ["1", "5"], []),
        ("10", ["1", "0"], []),
        ("pages 3-1", ["-1", "1"], ["1"]),
        ("?", ["?", "!"], ["?"]),
        ("😀", ["😀", "😢"], ["😀"]),
        # scripts without blanks
        ("这是狗叫声。", ["狗", "猫"], ["狗"]),
        ("狗", ["狗", "猫"], ["狗"]),
        ("男孩在唱歌", ["男", "男孩"], ["男孩"]),
        ("答案：女声", ["男声", "女声"], ["女声"]),
        ("犬の鳴き声", ["犬", "猫"], ["犬"]),
        ("개입니다", ["개", "고양이"], ["개"]),
        ("是dog叫", ["dog", "cat"], ["dog"]),
        ("हिन्दी", ["हिन्द", "हिन्दी"], ["हिन्दी"]),
        # nothing
        ("", ["dog"], []),
        ("...", ["dog"], []),
        ("synth_lead", ["bass", "lead guitar"], []),
    ],
)
def test_labels_that_are_named(answer: str, labels: list[str], named: list[str]):
    assert _named(answer, labels) == named


def test_spellings_of_one_label_are_one_label():
    assert LabelSet(["Dog", "dog", "DOG.", " dog", "cat", ""]).labels == ["Dog", "cat"]


def test_a_label_is_found_in_a_long_answer_in_little_time():
    labels = LabelSet([f"label {n}" for n in range(1000)])
    assert labels.named("nothing " * 5000 + "label 77") == (77,)


def test_words_of_other_scripts_keep_their_marks():
    assert words("नमस्ते दुनिया") == ("नमस्ते", "दुनिया")
    assert words("Straße STRASSE") == ("strasse", "strasse")
