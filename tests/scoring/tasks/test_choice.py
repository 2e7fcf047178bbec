"""Task ``choice``: options from a column, from the prompt, or letters alone."""

from __future__ import annotations

import pytest

from mdl_toolkit.errors import UserError
from mdl_toolkit.scoring.api import score
from mdl_toolkit.scoring.reading.lists import choices_of
from mdl_toolkit.scoring.reading.options import options_of_rows

ANIMALS = ["cat", "dog", "bird"]


def test_letters_and_texts_are_compared_with_each_other():
    references = ["B", "b", "(B)", "dog", "B. dog", "Dog", "B"]
    predictions = ["b) dog", "The answer is dog", "选B", "B", "I think it's the dog", "C", None]
    scored = score("choice", references, predictions, choices=[ANIMALS] * 7)
    assert [row["given"] for row in scored.rows] == ["B", "B", "B", "B", "B", "C", None]
    assert [row["correct"] for row in scored.rows] == [True] * 5 + [False] * 2
    assert scored.values == {"accuracy": 5 / 7}


def test_every_row_has_choices_of_its_own():
    choices = [["cat", "dog"], ["dog", "cat"], ["A. dog", "B. cat"]]
    scored = score("choice", ["dog", "dog", "dog"], ["B", "B", "A"], choices=choices)
    assert [row["correct"] for row in scored.rows] == [True, False, True]
    assert [row["wanted"] for row in scored.rows] == ["B", "A", "A"]


def test_a_cell_of_choices_is_a_list_as_json_or_python_write_it():
    for cell in ('["a, b", "c"]', "['a, b', 'c']", "a, b; c", "a, b\nc"):
        assert choices_of(cell) == ["a, b", "c"], cell
    assert choices_of("[the dog, a cat]") == ["[the dog, a cat]"]


def test_without_choices_letters_alone_count():
    scored = score("choice", ["B", "e", "A"], ["(b) whatever", "E.", "a dog barks"])
    assert [row["given"] for row in scored.rows] == ["B", "E", None]
    assert [row["wanted"] for row in scored.rows] == ["B", "E", "A"]
    assert scored.judged.details["unread"] == {"no_option": 1}
    assert scored.judged.unread == {"choose no option, or several": [2]}


def test_a_matrix_of_letters_shows_a_liking_for_one():
    scored = score("choice", list("ABCD"), list("AAAB"))
    confusion = scored.judged.details["confusion"]
    assert confusion["labels"] == ["A", "B", "C", "D", "(no label)"]
    assert [row[0] for row in confusion["counts"]] == [1, 1, 1, 0]


def test_a_reference_that_is_no_option_is_refused():
    with pytest.raises(UserError, match='row 2: the reference "fish" is none of the options'):
        score("choice", ["cat", "fish"], ["cat", "cat"], choices=[ANIMALS] * 2)


def test_an_empty_reference_is_left_out():
    scored = score("choice", ["A", ""], ["A", "B"])
    assert scored.values["accuracy"] == 1
    assert scored.judged.left_out == {"no option in the reference": [1]}


def test_options_of_rows_come_from_the_column_or_the_prompt():
    prompt = "What is it? A. cat B. dog"
    assert (
        options_of_rows(['["cat", "dog"]', "cat;dog", ["cat", "dog"], None, ""], [prompt] * 5)
        == [["cat", "dog"]] * 5
    )
    objects: list[str | dict[str, str]] = ['{"B": "dog", "A": "cat"}', {"A": "cat", "B": "dog"}]
    assert options_of_rows(objects, None) == [["cat", "dog"]] * 2
    assert options_of_rows(["A. cat B. dog", "(A) cat\n(B) dog"], None) is not None
    assert options_of_rows(["A. cat B. dog"], [prompt]) == [["cat", "dog"]]
    assert options_of_rows(None, [prompt, "What is it?", None]) == [["cat", "dog"], None, None]
    assert options_of_rows(None, ["What is it?"]) is None
    assert options_of_rows(None, None) is None
