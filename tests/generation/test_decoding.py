"""A model's ``generation_config.json`` acts as in the library's own ``generate`` on the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from mdl_toolkit.cli import run as command
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import ModelError, SettingsError
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.config_file import end_tokens, read_generation_file
from mdl_toolkit.generation.decoding import Decoding, in_force
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.infer.options import choose_decoding, describe_generation
from mdl_toolkit.model import MiDashengLMModel
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.settings import InferenceSettings
from support.data.clips import tone, write_csv, write_wav
from support.models.prompts import random_prompts
from support.models.tiny import make_model_folder

BUDGET = 14


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", decoder="qwen3", tie=True)


@pytest.fixture(scope="module")
def model(base: Path) -> MiDashengLMModel:
    return load_model(base, dtype=torch.float32)


def _with(base: Path, folder: Path, said: dict[str, Any]) -> Path:
    """The model with more in its ``generation_config.json``."""
    copytree(base, folder, symlinks=True)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    return folder


def _prompts(folder: Path, count: int = 6) -> list[Prompt]:
    return random_prompts(folder, count, BUDGET, budgets=1)


def _settings(folder: Path, **options: Any) -> InferenceSettings:
    return InferenceSettings(input=Path("i"), output=Path("o"), model_name=str(folder), **options)


def _decoding(folder: Path, **options: Any) -> tuple[Decoding, list[int]]:
    place, settings = open_folder(folder), _settings(folder, **options)
    file = read_generation_file(place, settings.generation_config)
    return choose_decoding(settings, file, place), end_tokens(file, PromptBuilder(folder).end_id)


def _library(folder: Path, prompts: list[Prompt]) -> list[list[int]]:
    """Answers of the library's ``generate``, row by row: there is nothing but the folder and the prompt."""
    model = MiDashengLMModel.from_pretrained(folder, dtype=torch.float32)
    ends = set(model.generation_config.eos_token_id)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for prompt in prompts:
        output = model.generate(
            input_ids=torch.from_numpy(prompt.input_ids)[None],
            attention_mask=torch.ones(1, len(prompt.input_ids), dtype=torch.long),
            input_values=torch.from_numpy(prompt.waveform)[None],
            audio_length=[len(prompt.waveform)],
            max_new_tokens=prompt.budget,
            tokenizer=tokenizer,
        )
        tokens = output[0, len(prompt.input_ids) :].tolist()
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        answers.append(tokens[:end])
    return answers


#: Settings that change some answer of the random model; tokens are those that it likes to say.
SAID: dict[str, dict[str, Any]] = {
    "plain": {},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "suppress_tokens": {"suppress_tokens": "LIKED"},
    "begin_suppress_tokens": {"begin_suppress_tokens": "FIRST"},
    "bad_words_ids": {"bad_words_ids": "PAIRS"},
    "sequence_bias": {"sequence_bias": "BIAS"},
    "min_new_tokens": {"eos_token_id": "LIKED", "min_new_tokens": 6},
    "min_length": {"eos_token_id": "LIKED", "min_length": 40},
    "several ends": {"eos_token_id": "LIKED"},
    "exponential_decay": {"exponential_decay_length_penalty": [3, 2.5]},
    "forced_eos_token_id": {"forced_eos_token_id": 1276},
    "forced_bos_token_id": {"forced_bos_token_id": 7},
    "remove_invalid_values": {"remove_invalid_values": True, "renormalize_logits": True},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.3, "bias": 4.0, "hashing_key": 7}},
    "stop_strings": {"stop_strings": "TEXTS"},
    "all together": {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": "LIKED",
        "min_new_tokens": 4,
    },
    "sampling alone has no effect": {"do_sample": False, "temperature": 0.3, "top_k": 1, "min_p": 0.5},
    "beams": {"num_beams": 3},
    "beams, longer": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "eos_token_id": "LIKED"},
    "beams, shorter": {
        "num_beams": 4,
        "length_penalty": -2.0,
        "early_stopping": "never",
        "eos_token_id": "LIKED",
    },
    "beams with history": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    "beams with a stop": {"num_beams": 2, "stop_strings": "TEXTS"},
    "beams of some length": {"num_beams": 2, "min_length": 50, "eos_token_id": "LIKED"},
    "one of the most probable": {"do_sample": True, "top_k": 1},
    "one of the most probable, after history": {"do_sample": True, "top_k": 1, "no_repeat_ngram_size": 2},
}


def _filled(said: dict[str, Any], plain: list[list[int]], folder: Path) -> dict[str, Any]:
    """Put in tokens that the model says when nobody hinders it."""
    liked = sorted({answer[3] for answer in plain})
    pairs = sorted({tuple(answer[1:3]) for answer in plain})
    builder = PromptBuilder(folder)
    texts = [builder.decode([answer[4]], skip_special=True) for answer in plain]
    there = {
        "LIKED": liked,
        "FIRST": sorted({answer[0] for answer in plain}),
        "PAIRS": [list(pair) for pair in pairs],
        "BIAS": [[list(pair), -50.0] for pair in pairs] + [[[liked[0]], 1.5]],
        "TEXTS": [text for text in texts if text.strip() and "\ufffd" not in text],
    }
    filled = {
        name: there.get(value, value) if isinstance(value, str) else value for name, value in said.items()
    }
    if "eos_token_id" in filled:
        filled["eos_token_id"] = [*filled["eos_token_id"][:2], builder.end_id]  # type: ignore[index]
    return filled


@pytest.fixture(scope="module")
def plain(base: Path, model: MiDashengLMModel) -> list[list[int]]:
    return [answer.tokens for answer in Generator(model, [0])(_prompts(base))]


@pytest.mark.parametrize("case", SAID)
def test_answers_are_the_librarys(base: Path, model: MiDashengLMModel, plain, tmp_path: Path, case: str):
    said = _filled(SAID[case], plain, base)
    folder = _with(base, tmp_path / "m", said)
    prompts = _prompts(folder)
    expected = _library(folder, prompts)
    decoding, ends = _decoding(folder)
    generator = Generator(model, ends, decoding)
    together = [answer.tokens for answer in generator(prompts)]
    assert together == expected
    assert [generator([prompt])[0].tokens for prompt in prompts] == expected, "the batch doesn't matter"
    some = dict(generator.stream(prompts, 2))
    assert [some[row].tokens for row in range(len(prompts))] == expected, "nor who takes whose place"
    unhindered = {"plain", "forced_bos_token_id", "remove_invalid_values", "sampling alone has no effect"}
    if case not in unhindered | {"one of the most probable", "beams"}:
        assert together != plain, "the case should make a difference"


def test_an_answer_that_was_ended_by_force_was_cut(base: Path, model: MiDashengLMModel, tmp_path: Path):
    folder = _with(base, tmp_path / "m", {"forced_eos_token_id": 1276})
    for options in ({}, {"num_beams": 2}):
        decoding, ends = _decoding(folder, **options)
        answers = Generator(model, ends, decoding)(_prompts(folder))
        assert {len(answer.tokens) for answer in answers} == {BUDGET - 1}
        assert not any(answer.finished for answer in answers)


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_that_ended_at_a_text_was_not_cut(base: Path, model, plain, tmp_path: Path, beams: int):
    said = _filled({"stop_strings": "TEXTS"}, plain, base)
    folder = _with(base, tmp_path / "m", said)
    decoding, ends = _decoding(folder, num_beams=beams)
    answers = Generator(model, ends, decoding)(_prompts(folder))
    builder = PromptBuilder(folder)
    ended = 0
    for answer in answers:
        text = builder.decode(answer.tokens, skip_special=True)
        assert answer.finished == any(stop in text for stop in said["stop_strings"])
        ended += answer.finished
    assert ended


@pytest.mark.parametrize(
    "said",
    [
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "min_p": 0.02},
        {"do_sample": True, "top_k": 0, "typical_p": 0.7, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-3},
        {"do_sample": True, "no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
        {"do_sample": True, "num_beams": 3},
    ],
)
def test_sampling_by_the_file_is_the_rows_own(
    base: Path, model: MiDashengLMModel, tmp_path: Path, said: dict
):
    folder = _with(base, tmp_path / "m", said)
    decoding, ends = _decoding(folder)
    assert decoding.samples
    prompts = _prompts(folder)
    state = torch.random.get_rng_state()
    generator = Generator(model, ends, decoding)
    answers = [answer.tokens for answer in generator(prompts)]
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are touched"
    assert answers == [generator([prompt])[0].tokens for prompt in prompts]
    other, _ = _decoding(folder, seed=7)
    assert answers != [answer.tokens for answer in Generator(model, ends, other)(prompts)]


def test_what_can_be_drawn_is_what_the_library_would_draw_from(
    base: Path, model: MiDashengLMModel, tmp_path: Path
):
    """The first token's probabilities, after the library's processors."""
    from transformers import GenerationConfig

    said = {"do_sample": True, "temperature": 0.7, "top_k": 9, "typical_p": 0.9, "repetition_penalty": 1.5}
    folder = _with(base, tmp_path / "m", said)
    ask = _prompts(folder, 1)[0]
    output = model.generate(
        input_ids=torch.from_numpy(ask.input_ids)[None],
        input_values=torch.from_numpy(ask.waveform)[None],
        audio_length=[len(ask.waveform)],
        generation_config=GenerationConfig(
            **said, max_new_tokens=1, output_scores=True, return_dict_in_generate=True, pad_token_id=1
        ),
    )
    expected = torch.softmax(output.scores[0][0], -1)
    decoding, ends = _decoding(folder)
    keyed = [Prompt(ask.input_ids, ask.waveform, 1, key=key) for key in range(600)]
    drawn = [(answer.tokens or [1276])[0] for answer in Generator(model, ends, decoding)(keyed)]
    assert set(drawn) <= set(torch.nonzero(expected).flatten().tolist())
    for token in expected.topk(3).indices.tolist():
        share, wanted = drawn.count(token) / len(drawn), float(expected[token])
        assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / len(drawn)) ** 0.5 + 1e-9


def test_options_win(base: Path, tmp_path: Path):
    said = {
        "do_sample": True,
        "temperature": 0.5,
        "repetition_penalty": 1.4,
        "num_beams": 4,
        "min_new_tokens": 2,
    }
    folder = _with(base, tmp_path / "m", said)
    decoding, _ = _decoding(folder, do_sample=False, num_beams=1, repetition_penalty=1.0)
    assert in_force(decoding) == {"min_new_tokens": 2}
    decoding, _ = _decoding(folder, temperature=0.9, top_k=5)
    force = {**said, "temperature": 0.9, "top_k": 5, "top_p": 1.0}
    assert in_force(decoding) == force
    assert in_force(_decoding(folder, generation_config="none")[0]) == {}
    other = tmp_path / "other.json"
    other.write_text('{"no_repeat_ngram_size": 4, "eos_token_id": 3}')
    decoding, ends = _decoding(folder, generation_config=str(other))
    assert in_force(decoding) == {"no_repeat_ngram_size": 4} and ends == [3, 1276]
    other.write_text('{"no_repeat_ngram_size": 4}')
    assert _decoding(folder, generation_config=str(other))[1] == _decoding(folder)[1] == [1274, 1276]


def test_an_adapters_own_file_comes_first(base: Path, tmp_path: Path):
    from dataclasses import replace

    place = open_folder(_with(base, tmp_path / "m", {"repetition_penalty": 1.4}))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    place = replace(place, folder=adapter, kind="adapter")
    assert read_generation_file(place).honoured == {"repetition_penalty": 1.4}
    (adapter / "generation_config.json").write_text('{"no_repeat_ngram_size": 2, "eos_token_id": [5]}')
    assert read_generation_file(place).honoured == {"no_repeat_ngram_size": 2}
    assert read_generation_file(place, "none").ends == (5,)


def test_sampling_options_without_sampling_are_refused(base: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match="--temperature has an effect with --do-sample only: add it"):
        _decoding(base, temperature=0.5)
    folder = _with(base, tmp_path / "m", {"do_sample": True})
    assert _decoding(folder, temperature=0.5)[0].options["temperature"] == 0.5
    assert (
        "--top-k has an effect in sampling only" in _settings(base, do_sample=False, top_k=3).problems()[-1]
    )


def test_one_line_says_what_is_in_force(base: Path, tmp_path: Path):
    said = {
        "repetition_penalty": 1.1,
        "suppress_tokens": list(range(40)),
        "temperature": 0.1,
        "do_sample": False,
    }
    folder = _with(base, tmp_path / "m", said)
    place, settings = open_folder(folder), _settings(folder, repetition_penalty=1.3)
    file = read_generation_file(place)
    line = describe_generation(settings, file, choose_decoding(settings, file, place), "LIMIT")
    listed = json.dumps(list(range(40)))[:57] + "..."
    assert line == (
        "generation: greedy, repetition_penalty 1.3; generation_config.json says "
        f"suppress_tokens {listed}; LIMIT"
    )
    settings = _settings(folder, do_sample=True, top_p=0.5)
    line = describe_generation(settings, file, choose_decoding(settings, file, place), "LIMIT")
    assert line.startswith(
        "generation: sampling with seed 42, top_p 0.5, top_k 50; generation_config.json says "
    )
    assert "repetition_penalty 1.1" in line and "temperature 0.1" in line and "\n" not in line


def test_what_is_not_honoured_is_named(base: Path, tmp_path: Path, capsys):
    said = {
        "max_time": 3.0, "guidance_scale": 1.5, "num_return_sequences": 2, "repitition_penalty": 1.2,
        "penalty_alpha": 0.6, "token_healing": True,
        # These are as if they were not there, or decide nothing that an answer shows.
        "encoder_repetition_penalty": 1.0, "use_cache": False, "top_h": None,
        "cache_implementation": "static", "diversity_penalty": 0.0, "output_scores": True,
        "transformers_version": "4.52.1",
    }  # fmt: skip
    _decoding(_with(base, tmp_path / "m", said))
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert warned[0].endswith(
        "generation_config.json: not honoured: max_time, guidance_scale, num_return_sequences, "
        "repitition_penalty (did you mean repetition_penalty?), penalty_alpha, token_healing; "
        "transformers' generate may answer otherwise with it"
    )
    _decoding(base)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"repetition_penalty": "1.2"}, "repetition_penalty is"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0"),
        ({"do_sample": "yes"}, "do_sample is"),
        ({"num_beams": "4"}, "num_beams is"),
        ({"bad_words_ids": []}, "bad_words_ids is"),
        ({"sequence_bias": [[[999999], 1.0]]}, "sequence_bias is"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"stop_strings": [3]}, "stop_strings is"),
        ({"suppress_tokens": "all"}, "suppress_tokens is"),
        ({"watermarking_config": {"bias": "x"}}, "watermarking_config is"),
        ({"early_stopping": "maybe"}, "early_stopping is"),
        ({"length_penalty": "long"}, "length_penalty is"),
    ],
)
def test_values_that_nobody_can_use_are_refused_before_the_work(
    base: Path, tmp_path: Path, monkeypatch, capsys, said: dict, named: str
):
    folder = _with(base, tmp_path / "m", said)
    with pytest.raises(ModelError, match="--generation-config none") as caught:
        _decoding(folder)
    assert named in str(caught.value) and "generation_config.json" in str(caught.value)
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", tone(0.3))
    write_csv(tmp_path / "in.csv", ["audio"], [("a.wav",)])
    words = ["inference", "in.csv", "--output", "o.csv", "--model-name", "m", "--num-workers", "1"]
    assert command(words) == 2
    assert not (tmp_path / "o.csv.partial").exists()
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert command([*words, "--generation-config", "none", "--max-new-tokens", "2"]) == 0


def test_a_file_that_is_no_mapping(base: Path, tmp_path: Path):
    folder = _with(base, tmp_path / "m", {"eos_token_id": [1276, "1274"]})
    with pytest.raises(ModelError, match=r"eos_token_id is \[1276, .1274.\]; a token's number"):
        _decoding(folder)
    (folder / "generation_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="a mapping expected"):
        _decoding(folder)


def test_work_of_other_settings_is_not_gone_on_with(base: Path, tmp_path: Path, monkeypatch, capsys):
    """A journal belongs to the settings, wherever they come from."""
    from mdl_toolkit.infer.journal.journal import Journal

    folder = _with(base, tmp_path / "m", {})
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", tone(0.3))
    write_csv(tmp_path / "in.csv", ["audio"], [("a.wav",)])
    words = ["inference", "in.csv", "--output", "o.csv", "--model-name", "m", "--num-workers", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert command(words) == 130
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "no_repeat_ngram_size": 2}))
    assert command(words) == 2
    assert "no_repeat_ngram_size was None, now 2" in capsys.readouterr().err
