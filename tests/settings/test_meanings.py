"""What an option means for resuming and for converted datasets stands with its definition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mdl_toolkit import cli
from mdl_toolkit.data.conversion.request import Request
from mdl_toolkit.settings import ConvertOptions, ConvertSettings, InferenceSettings, TrainSettings, options
from mdl_toolkit.settings.options import Settings, option, options_where, settings_fields, varied


def silent(settings: type[Settings], trait: str, meanings: Any) -> list[str]:
    """Options that don't say what they mean."""
    found = [(f.name, f.metadata[trait]) for f, _ in settings_fields(settings)]
    return [name for name, meaning in found if meaning not in get_args(meanings)]


@pytest.mark.parametrize("command", [TrainSettings, InferenceSettings])
def test_every_option_of_a_command_that_resumes_says_what_it_means_then(command: type[Settings]) -> None:
    assert not silent(command, "resume", options.ResumeRule)


def test_every_option_of_a_conversion_says_what_it_means_for_the_dataset() -> None:
    assert not silent(ConvertSettings, "conversion", options.DatasetRule)
    shared = {f.name for f, _ in settings_fields(ConvertOptions)}
    assert not shared & {*silent(TrainSettings, "conversion", options.DatasetRule)}


def test_an_option_that_says_nothing_is_found() -> None:
    @dataclass(kw_only=True)
    class More(TrainSettings):
        momentum: float = option(0.9, "Momentum.")

    assert silent(More, "resume", options.ResumeRule) == ["momentum"]


def test_every_option_that_another_one_needs_exists() -> None:
    for command in cli.COMMANDS.values():
        fields = settings_fields(command.settings)
        known = {options.flag(f.name) for f, _ in fields}
        needed = {f.metadata["goes_with"].split()[0] for f, _ in fields if f.metadata["goes_with"]}
        assert needed <= known


def test_what_a_checkpoint_is_compared_by() -> None:
    assert {*options_where(TrainSettings, resume="same")} == {
        "method", "train_target", "lora_rank", "lora_attention", "rslora", "dora", "lora_alpha",
    }  # fmt: skip
    assert {*options_where(TrainSettings, resume="warn")} == {
        "lora_dropout", "quantization", "lr", "lr_scheduler", "warmup_steps", "warmup_ratio", "weight_decay",
        "max_grad_norm", "num_epochs", "max_steps", "batch_size", "max_tokens", "gradient_accumulation_steps",
        "seed", "bf16", "eval_generate", "eval_task", "eval_max_new_tokens",
    }  # fmt: skip


def test_what_unfinished_answers_are_compared_by() -> None:
    assert {*options_where(InferenceSettings, resume="same")} == {
        "quantization", "batch_size", "max_new_tokens", "max_length", "seed", "max_audio_seconds", "encoding",
        "base_dir",
    }  # fmt: skip
    assert not options_where(InferenceSettings, resume="warn")


def test_what_a_converted_folder_decides() -> None:
    assert {*options_where(TrainSettings, conversion=("fingerprint", "recorded"))} == {
        "system_prompt", "user_prompt", "prompt_order", "base_dir", "encoding", "on_error",
        "max_audio_seconds", "audio_storage", "allow_private_urls", "allow_outside_base_dir", "url_timeout",
        "url_max_mib",
    }  # fmt: skip


def test_options_of_lora_alone() -> None:
    assert {*options_where(TrainSettings, goes_with="--method lora")} == {
        "lora_rank", "lora_alpha", "lora_dropout", "lora_attention", "rslora", "dora", "quantization",
        "merge_lora",
    }  # fmt: skip


def request(**values: Any) -> Request:
    made = ConvertOptions(**values)
    return Request(
        input=Path("train.csv"),
        options=made,
        model_folder=Path("tiny"),
        order=made.prompt_order or "audio-first",
        root="/recordings",
        sha256="ab" * 32,
        processing="cd" * 32,
    )


def test_a_cache_key_stays_the_same_for_good() -> None:
    """Another key would convert every user's data anew: change it together with the format alone."""
    assert request().fingerprint == "59471592f6b5c84b3518abfc6f26133d"
    other = request(
        system_prompt="s",
        user_prompt="u",
        prompt_order="text-first",
        base_dir=Path("x"),
        encoding="gbk",
        on_error="skip",
        max_audio_seconds=12.5,
        allow_private_urls=True,
        allow_outside_base_dir=True,
        url_timeout=1.0,
        url_max_mib=2.0,
        audio_storage="flac",
        num_workers=3,
        tokenizing_batch_size=5,
        model_name="tiny",
    )
    assert replace(other, shard=(2, 8)).fingerprint == "50b7d531501320158903d6b3196130f4"


OTHER = {
    "system_prompt": "s", "user_prompt": "u", "prompt_order": "text-first", "encoding": "gbk",
    "on_error": "skip", "max_audio_seconds": 9.0, "allow_private_urls": True, "allow_outside_base_dir": True,
    "url_timeout": 1.0, "url_max_mib": 2.0, "audio_storage": "flac", "num_workers": 99,
    "tokenizing_batch_size": 5, "model_name": "x/y", "revision": "main", "from_modelscope": True,
    "base_dir": Path("x"),
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f, _ in settings_fields(ConvertOptions)])
def test_options_act_on_the_cache_key_as_they_say(name: str) -> None:
    said = {f.name: f.metadata["conversion"] for f, _ in settings_fields(ConvertOptions)}[name]
    before, now = request(), request(**{name: OTHER[name]})
    if name == "base_dir":  # by the folder that it leads to
        now = replace(now, root="/elsewhere")
    assert (before.fingerprint != now.fingerprint) == (said == "fingerprint")
    assert (name in before.recorded) == (said in ("fingerprint", "recorded"))


def test_an_option_varied_keeps_what_is_not_named() -> None:
    @dataclass(kw_only=True)
    class Base(Settings):
        a: int = option(3, "One.", low=1, resume="free")
        b: list[int] = option(factory=lambda: [1], help="Two.", resume="warn")

    @dataclass(kw_only=True)
    class Made(Base):
        a: int = varied(Base, "a", help="Another.")
        b: list[int] = varied(Base, "b", resume="same")

    fields = {f.name: f for f, _ in settings_fields(Made)}
    assert (fields["a"].default, fields["a"].metadata["help"], fields["a"].metadata["low"]) == (
        3,
        "Another.",
        1,
    )
    assert fields["b"].default_factory is not None and Made().b == [1]
    assert options_where(Made, resume="same") == ("b",) and options_where(Base, resume="same") == ()
    with pytest.raises(KeyError):
        options_where(Made, resumes="same")
