"""Probabilities of answers: against a plain forward of the whole sequence, alone and unpacked."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation import likelihood
from mdl_toolkit.generation.answer import Answer, Choices, Prompt, likeliest_first, ranked_choices
from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.generation.likelihood import ChoiceScorer, score_answers
from mdl_toolkit.generation.reading import PromptReader
from mdl_toolkit.generation.tree import grow_trees
from mdl_toolkit.model_folders.load import load_model
from support.models.plain import plain_logprobs
from support.models.prompts import random_prompts
from support.models.tiny import make_model_folder

WORDS = [
    "cat",
    "catfish",
    "cats and dogs",
    "dog",
    "a",
    "the bird sings",
    "the bird sleeps",
    "\u597d",
    "x" * 40,
]


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "window"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = "qwen2" if request.param == "window" else request.param
    more: dict[str, Any] = {
        "text_config": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    }
    return make_model_folder(
        tmp_path_factory.mktemp("model") / "m",
        decoder=kind,
        tie=kind == "qwen3",
        **(more if request.param == "window" else {}),
    )


@pytest.fixture(scope="module")
def model(folder: Path):
    return load_model(folder, dtype=torch.float32)


def _choices(folder: Path, words: list[str]) -> Choices:
    builder = PromptBuilder(folder)
    return Choices(tuple(words), tuple(builder.prepare(None, None, word).answer for word in words))


def _said(answer: Answer, ends: set[int], model, prompt: Prompt) -> list[int]:
    """The tokens that an answer's numbers are of; which token ended it, the numbers themselves must say."""
    assert answer.logprobs is not None
    more = len(answer.logprobs) - len(answer.tokens)
    assert more == int(answer.finished)
    if not more:
        return answer.tokens
    last = answer.logprobs[-1]
    given = {end: plain_logprobs(model, prompt, [*answer.tokens, end])[-1] for end in ends}
    nearest = min(ends, key=lambda end: abs(given[end] - last))
    return [*answer.tokens, nearest]


def _ends(model, prompts: list[Prompt]) -> set[int]:
    """Tokens that end some answers early, one of them before its first token, and others not."""
    answers = [answer.tokens for answer in Generator(model, [0])(prompts)]
    later = {t: sum(t in answer[1:-1] for answer in answers) for answer in answers for t in answer}
    often = max(later, key=lambda token: (0 < later[token] < len(answers), later[token]))
    return {answers[0][0], often}


DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "temperature": 1.7, "top_k": 20},
    "beams": {"num_beams": 3},
    "beams and a penalty": {"num_beams": 3, "repetition_penalty": 1.5},
    "sampled beams": {"num_beams": 2, "do_sample": True, "temperature": 1.3},
    "three of four beams": {"num_beams": 4, "num_return_sequences": 3},
    "beams by another measure": {"num_beams": 4, "num_return_sequences": 4, "repetition_penalty": 1.5},
}


def _found(answers: list[Answer]) -> list[list[tuple[list[int], bool]]]:
    """What was found for each prompt: of a search that gives several answers, in whatever order."""
    return [sorted((one.tokens, one.finished) for one in (a, *a.others)) for a in answers]


def test_the_most_probable_answer_of_a_search_is_the_answer(folder: Path, model):
    prompts = random_prompts(folder, 9)
    ends = sorted(_ends(model, prompts))
    decoding = Decoding(DECODINGS["beams by another measure"])
    searched, ranked = (Generator(model, ends, decoding, scores=wanted)(prompts) for wanted in (False, True))
    assert [a.tokens for a in searched] != [a.tokens for a in ranked], "the search's own first is another one"
    nothing = Answer(finished=True)
    assert likeliest_first([nothing, *ranked])[-1] is nothing, "what has no probability is last"


@pytest.mark.parametrize("case", DECODINGS)
def test_what_is_generated_is_as_likely_as_the_model_says(folder: Path, model, case: str):
    prompts = random_prompts(folder, 9)
    ends = _ends(model, prompts)
    decoding = Decoding(DECODINGS[case], seed=5)
    answers = Generator(model, sorted(ends), decoding, scores=True)(prompts)
    silent = Generator(model, sorted(ends), decoding)(prompts)
    assert _found(answers) == _found(silent), "scores change nothing but the order"
    assert all(a.logprobs is None and a.logprob is None for a in silent)
    if case == "greedy":
        assert {answer.finished for answer in answers} == {True, False}, "some cut, some not"
        assert any(answer.finished and not answer.tokens for answer in answers), "one empty"
    for prompt, answer in zip(prompts, answers, strict=True):
        found = [answer, *answer.others]
        assert len(found) == decoding.returned
        sums = [sum(one.logprobs or []) for one in found]
        assert sums == sorted(sums, reverse=True)
        for one in found:
            expected = plain_logprobs(model, prompt, _said(one, ends, model, prompt))
            assert one.logprobs == pytest.approx(expected, abs=2e-5)
            assert one.logprob == pytest.approx(sum(expected), abs=1e-4)


def test_an_end_that_was_forced_is_not_the_answers(folder: Path, model):
    for options in ({}, {"num_beams": 2}):
        decoding = Decoding({"forced_eos_token_id": 1276, **options})
        for prompt, answer in zip(
            prompts := random_prompts(folder, 3),
            Generator(model, [1276], decoding, scores=True)(prompts),
            strict=True,
        ):
            assert not answer.finished
            assert answer.logprobs == pytest.approx(plain_logprobs(model, prompt, answer.tokens), abs=2e-5)
    nothing = Generator(model, [1276], Decoding({"forced_eos_token_id": 1276}), scores=True)(
        [replace(prompts[0], budget=1)]
    )
    assert nothing[0].logprobs == [] and nothing[0].logprob is None


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_choices_are_as_likely_as_the_model_says(folder: Path, model, monkeypatch, most: int):
    monkeypatch.setattr(likelihood, "grow_trees", lambda sequences: grow_trees(sequences, most))
    monkeypatch.setattr(likelihood, "_TOGETHER", 12)
    monkeypatch.setattr(likelihood, "_LOGITS", 3000)
    choices = _choices(folder, WORDS)
    prompts = random_prompts(folder)
    tokens = [list(some) for some in choices.tokens]
    found = score_answers(PromptReader(model), prompts, [[*tokens, []]] * len(prompts))
    for prompt, scored in zip(prompts, found, strict=True):
        assert scored[-1] == []
        for said, logprobs in zip(tokens, scored, strict=False):
            assert logprobs == pytest.approx(plain_logprobs(model, prompt, said), abs=2e-5)


def test_the_likeliest_choice_is_given_and_the_prompt_is_read_once(folder: Path, model, monkeypatch):
    prompts = random_prompts(folder, 6)
    some, others = _choices(folder, WORDS), _choices(folder, WORDS[:3])
    asked = [replace(prompt, choices=others if row == 2 else some) for row, prompt in enumerate(prompts)]
    clips: list[int] = []
    tokens = 0
    encode, packed = model.encode_audio, model.packed_hidden

    def counting(ids, *rest, **named):
        nonlocal tokens
        tokens += len(ids)
        return packed(ids, *rest, **named)

    monkeypatch.setattr(model, "encode_audio", lambda w, samples: clips.extend(samples) or encode(w, samples))
    monkeypatch.setattr(model, "packed_hidden", counting)
    answers = ChoiceScorer(model)(asked)
    assert sorted(clips) == sorted(len(prompt.waveform) for prompt in prompts)
    assert tokens == sum(len(prompt.input_ids) for prompt in prompts)
    for prompt, answer in zip(asked, answers, strict=True):
        assert prompt.choices is not None and answer.ranked is not None
        sums = [sum(plain_logprobs(model, prompt, list(said))) for said in prompt.choices.tokens]
        expected = np.exp(sums - np.max(sums)) / np.exp(sums - np.max(sums)).sum()
        assert [place for place, _ in answer.ranked] == sorted(range(len(sums)), key=lambda n: -sums[n])
        assert [share for _, share in answer.ranked] == pytest.approx(sorted(expected)[::-1], abs=1e-6)
        best = prompt.choices.tokens[answer.ranked[0][0]]
        assert answer.finished and answer.tokens == list(best[:-1])
        assert answer.logprob == pytest.approx(max(sums), abs=1e-4)
    alone = [ChoiceScorer(model)([prompt])[0] for prompt in asked]
    assert [a.ranked[0][0] for a in alone if a.ranked] == [a.ranked[0][0] for a in answers if a.ranked]


def test_trees_have_what_sequences_share_once():
    (tree,) = grow_trees([(1, 2, 9), (1, 3, 9), (1, 2, 4, 9), (5, 9)])
    assert len(tree.tokens) == 5, "1, 2, 3, 4 and 5; ends are asked for and not read"
    assert [tree.tokens[node] for node in np.flatnonzero(tree.sees[tree.tokens.tolist().index(4)])] == [
        1,
        2,
        4,
    ]
    assert sorted(tree.depths.tolist()) == [0, 0, 1, 1, 2]
    assert len(tree.edges) == 9, "of twelve steps, one is there three times and one twice"
    trees = grow_trees([(n, n + 1, 9) for n in range(10)], 4)
    assert sorted(place for tree in trees for place in tree.members) == list(range(10))
    assert max(len(tree.tokens) for tree in trees) == 4
    assert len(grow_trees([tuple(range(30)), (7, 9)], 4)) == 2, "a long one has a tree of its own"
    assert grow_trees([]) == []


def test_probabilities_among_choices():
    ranked = ranked_choices([-1000.0, -1001.0, -1000.0, -5000.0])
    assert [place for place, _ in ranked] == [0, 2, 1, 3]
    assert sum(share for _, share in ranked) == pytest.approx(1)
    assert ranked[2][1] / ranked[0][1] == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("quantization", ["8bit", "4bit", None])
def test_rounded_models_score_what_they_generate(folder: Path, quantization: Any):
    """Read token by token or as a tree: the numbers agree as far as the arithmetic does."""
    model = load_model(folder, dtype=torch.bfloat16, quantization=quantization)
    prompts = random_prompts(folder, 4)
    answers = Generator(model, [0], scores=True)(prompts)
    scored = score_answers(PromptReader(model), prompts, [[answer.tokens] for answer in answers])
    for answer, numbers in zip(answers, scored, strict=True):
        assert answer.logprobs == pytest.approx(numbers[0], abs=0.15)


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_that_ended_at_a_text_has_no_token_of_its_end(folder: Path, model, beams: int):
    prompts = random_prompts(folder, 4)
    plain = Generator(model, [0])(prompts)
    wanted = {answer.tokens[2] for answer in plain}

    def stop(ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        return torch.tensor([int(row[-1]) in wanted for row in ids])

    decoding = Decoding({"num_beams": beams}, stop=stop)
    answers = Generator(model, [0], decoding, scores=True)(prompts)
    assert any(answer.finished for answer in answers)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.logprobs == pytest.approx(plain_logprobs(model, prompt, answer.tokens), abs=2e-5)
