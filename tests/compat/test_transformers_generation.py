"""The library's logits processors and defaults: privately made, publicly made, the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from mdl_toolkit.compat import transformers_generation as compat
from mdl_toolkit.compat.transformers_generation import default_parameters, logits_processors
from mdl_toolkit.model import MiDashengLMConfig
from support.models.tiny import tiny_config

CPU = torch.device("cpu")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"do_sample": True, "temperature": 0.7, "top_k": 4, "top_p": 0.9},
    {"min_length": 15, "forced_eos_token_id": 3, "bad_words_ids": [[5, 6]]},
    {"exponential_decay_length_penalty": (3, 1.2), "suppress_tokens": [7], "begin_suppress_tokens": [8]},
    {"watermarking_config": {"bias": 2.5}},
]


def made(settings: dict[str, Any], ends: list[int]) -> list[Any]:
    config = GenerationConfig(**settings)
    for name, value in default_parameters().items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    config.max_length = 30
    return logits_processors(config, MiDashengLMConfig(**tiny_config()), ends, 12, CPU)


def state(processor: Any) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in vars(processor).items()
        if not isinstance(value, torch.Generator)
    }


def gone(self: Any, *arguments: Any, **named: Any) -> None:
    raise TypeError("GenerationMixin._get_logits_processor() got an unexpected keyword argument 'device'")


def of_another_name(self: Any, settings: Any, *arguments: Any, **named: Any) -> None:
    settings._end_tokens  # noqa: B018


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(settings) or "none")
@pytest.mark.parametrize("ends", [[3, 4], []], ids=["ends", "no ends"])
@pytest.mark.parametrize("private", [None, gone, of_another_name], ids=["gone", "signature", "settings"])
def test_the_public_way_makes_the_same(
    settings: dict[str, Any], ends: list[int], private: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ends and "exponential_decay_length_penalty" in settings:
        pytest.skip("the library's needs a token that ends an answer")
    privately = made(settings, ends)
    monkeypatch.setattr(compat._Maker, "_get_logits_processor", private)
    publicly = made(settings, ends)
    assert [type(one) for one in publicly] == [type(one) for one in privately]
    assert [state(one) for one in publicly] == [state(one) for one in privately]
    ids, logits = torch.randint(0, 64, (1, 12)), torch.randn(1, tiny_config()["text_config"]["vocab_size"])
    for one, other in zip(publicly, privately, strict=True):
        torch.testing.assert_close(one(ids, logits.clone()), other(ids, logits.clone()))


def test_a_wrong_setting_is_not_taken_for_a_changed_library() -> None:
    with pytest.raises(ValueError, match="penalty"):
        made({"repetition_penalty": "high"}, [3])


def test_defaults_are_those_that_the_library_keeps_to_itself() -> None:
    kept = {
        name: value
        for name, value in GenerationConfig._get_default_generation_params().items()
        if value is not None and name not in ("max_length", "use_cache")
    }
    found = default_parameters()
    assert kept and {name: found.get(name) for name in kept} == kept
    assert all(value is False for name, value in found.items() if name not in kept)
