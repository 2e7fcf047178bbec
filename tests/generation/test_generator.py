"""Answers token by token: against recomputing everything for every token, and against the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation import reading
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.model_folders.load import load_model
from support.models.prompts import random_prompts
from support.models.tiny import make_model_folder


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(
        tmp_path_factory.mktemp("model") / "m", decoder=request.param, tie=request.param == "qwen3"
    )


@pytest.fixture(scope="module")
def model(folder: Path):
    return load_model(folder, dtype=torch.float32)


@torch.no_grad()
def _naive_logits(model, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """Logits of the next token, everything computed anew and alone."""
    ids = torch.cat([torch.from_numpy(prompt.input_ids), torch.tensor(answer, dtype=torch.long)])[None]
    waveform = torch.from_numpy(prompt.waveform)[None]
    return model(input_ids=ids, input_values=waveform, audio_length=[waveform.shape[1]]).logits[0, -1]


def _naive(model, prompt: Prompt, ends: set[int]) -> tuple[list[int], bool]:
    answer: list[int] = []
    while len(answer) < prompt.budget:
        token = int(_naive_logits(model, prompt, answer).argmax())
        if token in ends:
            return answer, True
        answer.append(token)
    return answer, False


def _some_end(model, prompts: list[Prompt]) -> set[int]:
    """A token that ends some answers early and others not, so that rows leave the batch one by one."""
    answers = [answer.tokens for answer in Generator(model, [0])(prompts)]
    counts = {t: sum(t in answer[1:-1] for answer in answers) for answer in answers for t in answer}
    chosen = max(counts, key=lambda token: (0 < counts[token] < len(answers), counts[token]))
    return {chosen}


def test_greedy_equals_recomputing_every_token(folder: Path, model):
    prompts = random_prompts(folder)
    ends = _some_end(model, prompts)
    answers = Generator(model, sorted(ends))(prompts)
    assert len({answer.finished for answer in answers}) == 2, "the case should have answers of both kinds"
    for prompt, answer in zip(prompts, answers, strict=True):
        assert (answer.tokens, answer.finished) == _naive(model, prompt, ends)


def test_greedy_equals_the_library(folder: Path, model):
    from transformers import GenerationConfig

    prompts = random_prompts(folder)
    end, pad = min(_some_end(model, prompts)), 1
    longest = max(len(p.input_ids) for p in prompts)
    ids, mask = (
        torch.full((len(prompts), longest), pad),
        torch.zeros((len(prompts), longest), dtype=torch.long),
    )
    samples = [len(p.waveform) for p in prompts]
    waveform = torch.zeros(len(prompts), max(samples))
    for row, p in enumerate(prompts):
        ids[row, longest - len(p.input_ids) :] = torch.from_numpy(p.input_ids)
        mask[row, longest - len(p.input_ids) :] = 1
        waveform[row, : samples[row]] = torch.from_numpy(p.waveform)
    config = GenerationConfig(
        max_new_tokens=20, eos_token_id=end, pad_token_id=pad, do_sample=False, repetition_penalty=1.3
    )
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        input_values=waveform,
        audio_length=samples,
        generation_config=config,
    )[:, longest:]
    prompts = [Prompt(p.input_ids, p.waveform, 20) for p in prompts]
    answers = Generator(model, [end], Decoding({"repetition_penalty": 1.3}))(prompts)
    for row, answer in enumerate(answers):
        tokens = output[row].tolist()
        assert answer.tokens == (tokens[: tokens.index(end)] if end in tokens else tokens)


def test_the_batch_does_not_matter(folder: Path, model):
    prompts = random_prompts(folder)
    for decoding in (
        Decoding(),
        Decoding({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 30}, seed=3),
    ):
        generator = Generator(model, [0], decoding)
        together = [answer.tokens for answer in generator(prompts)]
        assert together == [generator([prompt])[0].tokens for prompt in prompts]
        assert together == [answer.tokens for answer in generator(prompts[::-1])][::-1]


def test_prompts_are_read_in_bounded_groups(folder: Path, model, monkeypatch: pytest.MonkeyPatch):
    prompts = random_prompts(folder)
    expected = [answer.tokens for answer in Generator(model, [0])(prompts)]
    calls = []
    packed = model.packed_hidden
    monkeypatch.setattr(model, "packed_hidden", lambda *a, **k: calls.append(len(a[4])) or packed(*a, **k))
    monkeypatch.setattr(reading, "PREFILL_TOKENS", 60)
    assert [answer.tokens for answer in Generator(model, [0])(prompts)] == expected
    assert len(calls) > 2 and sum(calls) == len(prompts)


def test_sampling_follows_the_seed_and_the_probabilities(folder: Path, model):
    builder = PromptBuilder(folder)
    waveform = np.sin(np.arange(3200, dtype=np.float32) / 9)
    ask = Prompt(builder.encode(None, None, 1, None).input_ids, waveform, 1)
    probabilities = torch.softmax(_naive_logits(model, ask, []).double(), -1)
    keyed = [Prompt(ask.input_ids, ask.waveform, 1, key=key) for key in range(400)]
    generator = Generator(model, [], Decoding({"do_sample": True, "top_k": 0}))
    drawn = [answer.tokens[0] for answer in generator(keyed)]
    assert drawn == [answer.tokens[0] for answer in generator(keyed)]
    other = Generator(model, [], Decoding({"do_sample": True, "top_k": 0}, seed=43))(keyed)
    assert drawn != [answer.tokens[0] for answer in other]
    likely = probabilities.topk(3).indices.tolist()
    for token in likely:
        share, expected = drawn.count(token) / len(drawn), float(probabilities[token])
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5 + 1e-9
    top = Generator(model, [], Decoding({"do_sample": True, "top_k": 2}))(keyed)
    assert {answer.tokens[0] for answer in top} <= set(probabilities.topk(2).indices.tolist())
    nucleus = Generator(model, [], Decoding({"do_sample": True, "top_p": 1e-6}))(keyed[:50])
    assert {answer.tokens[0] for answer in nucleus} == {int(probabilities.argmax())}


@pytest.mark.parametrize("beams", [1, 4])
def test_a_clip_is_encoded_once_whatever_the_beams(
    folder: Path, model, beams: int, monkeypatch: pytest.MonkeyPatch
):
    prompts = random_prompts(folder, 4)
    clips = []
    encode = model.encode_audio
    monkeypatch.setattr(model, "encode_audio", lambda w, samples: clips.extend(samples) or encode(w, samples))
    answers = Generator(model, [0], Decoding({"num_beams": beams}))(prompts)
    assert sorted(clips) == sorted(len(p.waveform) for p in prompts)
    assert all(
        0 < len(answer.tokens) <= prompt.budget for answer, prompt in zip(answers, prompts, strict=True)
    )


def test_beams_find_an_answer_at_least_as_likely(folder: Path, model):
    prompts = [Prompt(p.input_ids, p.waveform, 4) for p in random_prompts(folder, 3)]

    def score(prompt: Prompt, tokens: list[int]) -> float:
        total = 0.0
        for place, token in enumerate(tokens):
            total += float(
                torch.log_softmax(_naive_logits(model, prompt, tokens[:place]).double(), -1)[token]
            )
        return total

    greedy = Generator(model, [0])(prompts)
    beams = Generator(model, [0], Decoding({"num_beams": 5}))(prompts)
    for prompt, one, many in zip(prompts, greedy, beams, strict=True):
        assert score(prompt, many.tokens) >= score(prompt, one.tokens) - 1e-6


def test_the_next_rows_take_the_places_of_those_that_have_ended(folder: Path, model, monkeypatch):
    prompts = random_prompts(folder, 24, budget=20)
    ends = sorted(_some_end(model, prompts))
    alone = Generator(model, ends)
    expected = {row: alone([prompt])[0] for row, prompt in enumerate(prompts)}
    taken: list[int] = []
    sizes: list[int] = []
    step = RaggedCache.step
    monkeypatch.setattr(RaggedCache, "step", lambda self: sizes.append(len(self.lengths)) or step(self))
    given = (taken.append(row) or prompt for row, prompt in enumerate(prompts))
    generator = Generator(model, ends)
    found = {}
    for row, answer in generator.stream(given, 8):
        assert len(taken) - len(found) <= 8, "never more at a time"
        found[row] = answer
    assert found == expected
    assert max(sizes) == 8
    # Rows ending one by one would, in fixed batches, run as long as the longest of each.
    lengths = [len(answer.tokens) for answer in expected.values()]
    assert len(sizes) < sum(max(lengths[first : first + 8]) for first in range(0, 24, 8))


def test_the_cache_is_sized_to_need_and_rows_come_and_go():
    cache = RaggedCache(torch.device("cpu"))
    cache.change([], [3, 5])
    cache.read(0, 2)
    keys = torch.arange(8.0).view(1, 1, 8, 1)
    assert cache.update(keys, keys, 0)[0] is keys
    for step in range(40):
        positions, mask = cache.step()
        assert positions.flatten().tolist() == [3 + step, 5 + step]
        new = torch.tensor([100.0 + step, 200.0 + step]).view(2, 1, 1, 1)
        held, _ = cache.update(new, new, 0)
        assert held.shape == (2, 1, 6 + step, 1) and mask.shape == (2, 1, 1, 6 + step)
    assert held[0, 0, :4, 0].tolist() == [0, 1, 2, 100] and held[1, 0, :6, 0].tolist() == [3, 4, 5, 6, 7, 200]
    assert cache._keys[0].shape[2] <= 5 + 40 + 32
    cache.change([1], [2])
    assert cache.lengths == [45, 2] and cache._keys[0].shape[:2] == (2, 1)
    cache.read(1, 2)
    keys = torch.tensor([8.0, 9.0]).view(1, 1, 2, 1)
    cache.update(keys, keys, 0)
    positions, _ = cache.step()
    held, _ = cache.update(torch.tensor([7.0, 6.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), 0)
    assert positions.flatten().tolist() == [45, 2]
    assert held[0, 0, :6, 0].tolist() == [3, 4, 5, 6, 7, 200] and held[0, 0, 45, 0] == 7
    assert held[1, 0, :3, 0].tolist() == [8, 9, 6]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("quantization", [None, "8bit", "4bit"])
def test_on_a_gpu(folder: Path, model, quantization):
    prompts = random_prompts(folder, 12)
    dtype = torch.float32 if quantization is None else torch.bfloat16
    there = load_model(folder, dtype=dtype, device="cuda", quantization=quantization)
    assert {parameter.device.type for parameter in there.parameters()} == {"cuda"}
    found = dict(Generator(there, [0]).stream(prompts, 4))
    if quantization is None:
        expected = Generator(model, [0])(prompts)
        alike = sum(found[row].tokens == answer.tokens for row, answer in enumerate(expected))
        assert alike >= 11, "rounding may tip a tie"
    assert sorted(found) == list(range(12)) and all(answer.tokens for answer in found.values())
