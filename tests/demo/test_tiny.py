"""The small base model: complete, small, able to hear, and a start from which to learn."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mdl_toolkit.hub import resolve_model
from scripts.base import lessons

TINY = resolve_model("tiny")
WEIGHTS = TINY / "model.safetensors"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]


@cache
def read_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


@pytest.fixture
def tokenizer():
    return read_tokenizer()


@pytest.fixture(scope="module")
def model():
    from mdl_toolkit.model_folders.load import load_model

    return load_model(TINY).eval()


def test_the_folder_is_complete_and_small():
    names = {file.name for file in TINY.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "preprocessor_config.json",
    }  # fmt: skip
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 8_000_000


def test_nothing_in_it_names_where_it_was_made():
    for file in TINY.glob("*.json"):
        assert not re.search(r'"/[a-z]+/', file.read_text(encoding="utf-8")), file.name


def test_the_configuration_has_the_published_shape(tokenizer):
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "midashenglm"
    assert config["audio_encoder_config"]["model_type"] == "midashenglm_dasheng_encoder"
    assert config["subsample_factor"] == 5
    assert config["audio_token_id"] == tokenizer.token_to_id("<|AUDIO|>")
    assert config["text_config"]["vocab_size"] == tokenizer.get_vocab_size()
    sections = config["text_config"]["rope_scaling"]["mrope_section"]
    assert (
        2 * sum(sections)
        == config["text_config"]["hidden_size"] // config["text_config"]["num_attention_heads"]
    )


def test_special_tokens_are_single_ids(tokenizer):
    for token in SPECIAL:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]
    generation = json.loads((TINY / "generation_config.json").read_text(encoding="utf-8"))
    assert tokenizer.token_to_id("<|im_end|>") in generation["eos_token_id"]


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_survives_encoding(text):
    tokenizer = read_tokenizer()
    plain = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(plain).ids, skip_special_tokens=False) == plain


def test_everyday_words_cost_few_tokens(tokenizer):
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert sum(len(tokenizer.encode(word).ids) for word in words) <= 2 * len(words)


def test_every_weight_is_there_and_in_bfloat16(model):
    import torch

    from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles

    stored = {info.dtype for name, info in WeightFiles(TINY).items() if "num_batches_tracked" not in name}
    assert stored == {torch.bfloat16}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert 3_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 4_000_000


def likeness(answer: str, truth: str) -> float:
    """Share of words in common (F1)."""
    said, wanted = Counter(answer.split()), Counter(truth.split())
    return 2 * (said & wanted).total() / max(1, said.total() + wanted.total())


def test_it_hears_unseen_sounds_better_than_the_best_constant_guess(model):
    """Captions of 40 sounds of another seed; the rival is the one caption that fits all of them best."""
    from mdl_toolkit.model.processor import MiDashengLMProcessor

    processor = MiDashengLMProcessor.from_pretrained(TINY)
    drawn = (lessons.lesson(987_654, number) for number in range(1000))
    asked = [lesson for lesson in drawn if lesson.user_prompt in lessons.CAPTION_PROMPTS][:40]
    messages = [
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": lesson.user_prompt}]}]
        for lesson in asked
    ]
    texts = [processor.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    inputs = processor(text=texts, audio=[lesson.wave for lesson in asked])
    made = model.generate(**inputs, max_new_tokens=24, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answers = processor.tokenizer.batch_decode(made, skip_special_tokens=True)
    truths = [lesson.answer for lesson in asked]
    heard = sum(likeness(a, t) for a, t in zip(answers, truths, strict=True)) / len(truths)
    constant = max(sum(likeness(guess, t) for t in truths) / len(truths) for guess in truths)
    assert heard > constant + 0.25, f"heard {heard:.2f}, best constant guess {constant:.2f}"
