"""Which option an answer chooses: a table of answers as models and people really write them."""

from __future__ import annotations

import time

import pytest

from mdl_toolkit.scoring.reading.options import OptionReader, options_of_prompt, without_letters

ANIMALS = ["cat", "dog", "bird", "no animal"]


def _read(answer: str, texts: list[str] | None = ANIMALS) -> str | None:
    option = OptionReader(texts, letters=4).read(answer)
    return None if option is None else "ABCD"[option]


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        # the letter alone
        ("B", "B"), ("b", "B"), ("(b)", "B"), ("(B)", "B"), ("B.", "B"), ("b)", "B"), ("[B]", "B"),
        ("B：", "B"), ("**B**", "B"), ("`B`", "B"), (" B \n", "B"), ("Ｂ", "B"), ("（Ｂ）", "B"),
        ("\"B\"", "B"), ("B。", "B"), ("- B", "B"), ("A", "A"), ("a", "A"), ("a.", "A"), ("(a)", "A"),
        ("A!", "A"),
        # the letter and the text
        ("b) dog", "B"), ("B. dog", "B"), ("(B) dog", "B"), ("B: dog", "B"), ("B - dog", "B"),
        ("B、dog", "B"), ("B dog", "B"), ("b dog", "B"), ("b, dog", "B"), ("B. A dog is barking.", "B"),
        ("**B) dog**", "B"), ("B.dog", "B"), ("[B] dog", "B"), ("B) The dog.", "B"), ("A) cat", "A"),
        ("a) cat", "A"), ("A. cat", "A"), ("A cat", "A"), ("a cat", "A"), ("(a) cat", "A"),
        ("B. dog\n\nThe clip has barking.", "B"),
        # the letter in a line of its own
        ("B\n\nExplanation: A is wrong, no cat is heard.", "B"), ("B.\nIt is not A", "B"), ("A\ncat", "A"),
        ("I think\nB", "B"),
        # announced
        ("Answer: C", "C"), ("answer: c", "C"), ("Answer:C", "C"), ("The answer is B", "B"),
        ("The answer is b.", "B"), ("The answer is (B) dog", "B"), ("The answer is (b).", "B"),
        ("The correct answer is B.", "B"), ("The correct option is B: dog", "B"), ("Option B", "B"),
        ("option b", "B"), ("I choose B", "B"), ("I would pick B because it barks", "B"),
        ("I'd go with B.", "B"), ("My answer would be B", "B"), ("The answer should be option B", "B"),
        ("The answer is the option B", "B"), ("The answer is \"B\"", "B"), ("The answer is **B**", "B"),
        ("The answer is A", "A"), ("The answer is a", "A"), ("The answer is a.", "A"),
        ("The answer is A because", "A"), ("the answer is b because of the barking", "B"),
        ("Answer is: B", "B"), ("Correct answer: (B)", "B"), ("Answer = B", "B"), ("Choice (B)", "B"),
        ("The best answer is B, since it barks.", "B"),
        # in prose
        ("I think B is right", "B"), ("It's B", "B"), ("It must be C.", "C"), ("B is correct", "B"),
        ("A is correct", "A"), ("I think A fits best", "A"), ("It is (B).", "B"),
        ("I believe b) is right", "B"),
        # Chinese
        ("选B", "B"), ("答案是 C", "C"), ("答案：B", "B"), ("答案为B。", "B"), ("应该选B", "B"),
        ("故选C", "C"),
        ("选项B", "B"), ("我选 b", "B"), ("正确答案是（B）", "B"), ("B选项", "B"), ("B是正确的", "B"),
        ("A是对的", "A"),
        ("答案是A、cat", "A"), ("选择B，因为有狗叫", "B"),
        # the text
        ("dog", "B"), ("Dog", "B"), ("DOG.", "B"), ("The answer is dog", "B"),
        ("I think it's the dog", "B"), ("It is a dog.", "B"), ("a dog barks", "B"), ("A dog barks", "B"),
        ("A dog", "B"), ("a bird sings", "C"), ("The answer is a dog", "B"), ("Answer: a dog", "B"),
        ("Answer: A dog", "B"), ("no animal", "D"), ("There is no animal here", "D"),
        ("the dog's bark", "B"), ("I hear a cat", "A"),
        # what comes last counts
        ("It may be A or C. Final answer: B", "B"), ("\\boxed{B}", "B"), ("So \\boxed{\\text{dog}}.", "B"),
        ("A or B? <answer>B</answer>", "B"), ("<think>A? No, C.</think>B", "B"),
        ("<answer>(b) dog</answer>", "B"), ("<think>\n\n</think>\n\nThe answer is B.", "B"),
        # what is denied
        ("Not A but B", "B"), ("The correct answer is not A. It is B.", "B"), ("不是A，是B", "B"),
        ("The answer is (B) dog, not (A) cat.", "B"), ("The answer is B rather than C", "B"),
        # the letter counts, what is said of others does not
        ("The answer is B because there is no cat to be heard.", "B"),
    ],
)  # fmt: skip
def test_an_answer_chooses(answer: str, option: str):
    assert _read(answer) == option


@pytest.mark.parametrize(
    "answer",
    [
        "", " ", "?", "I don't know", "E", "(e)", "The answer is E", "Z. zebra", "elephant", "A or B",
        "A and B", "B, C", "A/B", "Both A and C", "cat and dog", "The answer is A or B",
        "The answer is B, C", "选A和B", "A. cat B. dog C. bird", "A. cat\nB. dog\nC. bird\nD. no animal",
        "A cat or a dog", "B) cat", "B. bird", "The answer is (B) cat", "C dog", "dogs", "category",
        "catalog", "e.g. this", "A loud noise", "a loud noise", "There is a noise", "I am not sure",
        "Bdog", "It is a b-side", "ABCD", "vitamin b", "U.S.A. today", "Options: A. cat B. dog",
        "I hear a cat, then a dog", "猫", "None of the above", "I", "\\boxed{}", "<answer></answer>",
    ],
)  # fmt: skip
def test_an_answer_chooses_none_or_several(answer: str):
    assert _read(answer) is None


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", "B"), ("(b) whatever", "B"), ("b)", "B"), ("The answer is C.", "C"), ("选B", "B"),
        ("D. no", "D"), ("a dog barks", None), ("A dog barks", None), ("A", "A"), ("A. dog", "A"),
        ("It is a dog", None), ("The answer is a dog", None), ("I think so", None),
        ("B because of the bark", "B"), ("E", None), ("I think it is B", "B"), ("A is right", "A"),
        ("Answer: A dog", None), ("The answer is A, a dog", "A"),
    ],
)  # fmt: skip
def test_where_only_letters_are_known(answer: str, option: str | None):
    assert _read(answer, None) == option


def test_a_text_that_is_a_letter_wins_over_the_letter():
    """Notes, grades, vitamins: the texts themselves are letters."""
    notes = ["C", "D", "E", "F"]
    assert _read("E", notes) == "C"
    assert _read("C", notes) == "A"
    assert _read("(A) C", notes) == "A"
    assert _read("Option B", notes) == "B"


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("C major", "B"),
        ("c minor", "A"),
        ("It is in C major.", "B"),
        ("A) C minor", "A"),
        ("The answer is C", "C"),
    ],
)
def test_texts_that_begin_with_letters(answer: str, option: str):
    assert _read(answer, ["C minor", "C major", "A minor", "A flat major"]) == option


def test_longer_texts_win_over_those_within_them():
    texts = ["male", "female", "bass", "bass drum"]
    assert [_read(a, texts) for a in ("female", "a female voice", "the bass drum", "a bass")] == [
        "B",
        "B",
        "D",
        "C",
    ]


def test_numbers_are_texts_as_a_whole():
    texts = ["1", "10", "-1", "1.5"]
    assert [_read(a, texts) for a in ("1", "10 dogs", "about -1", "It is 1.5.")] == ["A", "B", "C", "D"]
    assert _read("100", texts) is None


def test_nine_options_and_the_pronoun():
    reader = OptionReader([f"sound {n}" for n in range(9)])
    assert reader.read("I") == 8
    assert reader.read("The answer I believe is B") == 1
    assert reader.read("I think it is C") == 2
    assert reader.read("I. sound 8") == 8


@pytest.mark.parametrize(
    "prompt",
    [
        "What is heard? A. cat B. dog C. bird",
        "What is heard?\nA. cat\nB. dog\nC. bird",
        "What is heard? (A) cat (B) dog (C) bird",
        "What is heard? (a) cat, (b) dog, (c) bird",
        "What is heard? A) cat; B) dog; C) bird\nAnswer with the letter.",
        "这是什么声音？A、cat B、dog C、bird",
        "选出声音：Ａ．cat　Ｂ．dog　Ｃ．bird",
        "Choose:\nA: cat\nB: dog\nC: bird",
        "Is it a cat? A. cat\nB. dog\nC. bird",
    ],
)
def test_options_are_found_in_a_prompt(prompt: str):
    assert options_of_prompt(prompt) == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    "prompt", ["", "What is heard?", "Is it a dog or a cat?", "A. only one", "B. dog C. cat"]
)
def test_a_prompt_without_options(prompt: str):
    assert options_of_prompt(prompt) is None


def test_options_lose_letters_of_their_own():
    assert without_letters(["A. cat", "(b) dog", "C) bird"]) == ["cat", "dog", "bird"]
    assert without_letters(["A. cat", "dog"]) == ["A. cat", "dog"]
    assert without_letters(["B. cat", "A. dog"]) == ["B. cat", "A. dog"]
    assert without_letters([]) == []


@pytest.mark.parametrize("text", ["answer" + ":" * 5000, "A or " * 1000, "answer" + " " * 5000, "(" * 5000])
def test_no_answer_takes_long_to_read(text: str):
    began = time.monotonic()
    _read(text)
    assert time.monotonic() - began < 20
